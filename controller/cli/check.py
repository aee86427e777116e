"""The checks of `tally check`: each point says what was seen, and what to do if it is not in order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from controller.cli.check_identity import identity_points
from controller.cli.check_point import CheckStatus, Point
from controller.cli.session import without_etcd
from controller.core.model.printable import counted
from controller.store.base import Compacted, StoreError
from controller.store.etcd.auth import EtcdAuth
from controller.views.explain import span
from controller.views.freshness import Freshness
from controller.views.notices import UNREADABLE_NAME

if TYPE_CHECKING:
    from controller.cli.session import Session
    from controller.client import ReplicaView
    from controller.store.etcd.store import EtcdStore

SAFE_FROM = {(3, 4): 42, (3, 5): 28, (3, 6): 9}
"""For each minor release, the first patch release without known consistency or watch faults.

See design, section 9.
"""

DEFAULT_QUOTA_BYTES = 2 * 1024**3  # etcd's default, used when etcd does not report its quota
FULL_AT = 0.8
SKEW_SECONDS = 2.0
UNCOMPACTED_REVISIONS = 20_000  # a history of this length means that nothing compacts it


def check(session: Session) -> Iterator[Point]:
    """All points, each as soon as it is known. Writes nothing."""
    from controller.store.etcd.store import EtcdStore

    client = session.client
    assert isinstance(client.store, EtcdStore)
    yield from _versions(client.store, session)
    try:
        _, revision = client.store.get(client.keys.leader, deadline=client.clock.boottime() + 5.0)
    except StoreError as error:
        yield Point("read", CheckStatus.WRONG, str(error))
        yield Point("replicas", CheckStatus.WARNING, f"unknown without etcd. {without_etcd(session)}")
        return
    yield Point("read", CheckStatus.OK, f"prefix {client.keys.prefix} at revision {revision}")
    yield from _authentication(client.store, session)
    yield from _space(client.store, session)
    yield from _history(client.store, session, revision)
    yield from _clocks(session)
    yield from _others(session)
    replicas, leader = client.replicas.all(), client.replicas.leader()
    if (
        any(replica.engine.get("name") == "kubernetes" for replica in replicas)
        or session.given("engine") == "kubernetes"
    ):
        yield from _rights(session)
    yield from identity_points(session)
    if not replicas:
        yield Point(
            "replicas",
            CheckStatus.WARNING,
            "none registered: start some with `tally dev` or `tally controller`",
        )
        return
    for replica in replicas:
        if replica.engine_problem:
            yield Point(
                "replicas", CheckStatus.WARNING, f"{replica.id} does not campaign: {replica.engine_problem}"
            )
    versions = sorted({replica.version for replica in replicas})
    yield Point(
        "replicas",
        CheckStatus.OK,
        f"{counted(len(replicas), 'replica')} registered, version {', '.join(versions)}",
    )
    yield from _ages(replicas, session.client.clock.now())
    if leader is None:
        yield Point(
            "leader",
            CheckStatus.WRONG,
            "none: one should be elected within the time to live of the lease; see the logs of the replicas",
        )
    else:
        yield Point("leader", CheckStatus.OK, f"{leader.id} leads epoch {leader.epoch} (term {leader.term})")


def _others(session: Session) -> Iterator[Point]:
    """Gateways that are not ready, and notices that nobody tells."""
    client = session.client
    for gateway in client.replicas.gateways():
        state = f"at {gateway.url}" if gateway.ready else "not ready"
        problems = f", with problems: {', '.join(gateway.problems)}; its log says more"
        status = CheckStatus.WARNING if gateway.problems or not gateway.ready else CheckStatus.OK
        yield Point(f"gateway {gateway.id}", status, state + (problems if gateway.problems else ""))
    now = client.notices.summary()
    notices = f"{counted(now.waiting, 'notice')} to be told, {counted(now.dead, 'dead letter')}"
    if now.waiting and not now.on_duty:
        yield Point(
            "notifier", CheckStatus.WARNING, f"none is on duty, and {notices}: start `tally notifier`"
        )
    elif now.dead:
        yield Point("notifier", CheckStatus.WARNING, f"{notices}: see `tally notifier list`")
    elif now.on_duty == UNREADABLE_NAME:
        yield Point(
            "notifier", CheckStatus.WARNING, f"its record cannot be read, and {notices}: see `tally audit`"
        )
    elif now.on_duty and not now.failing and not now.problem:
        yield Point("notifier", CheckStatus.OK, f"{now.on_duty} is on duty, {notices}")
    if now.problem:
        yield Point("notifier", CheckStatus.WARNING, f"{now.on_duty}: {now.problem}")
    for host, why in now.failing.items():
        yield Point("notifier", CheckStatus.WARNING, f"{now.on_duty} cannot tell {host}: {why}")


def _ages(replicas: Sequence[ReplicaView], now: float) -> Iterator[Point]:
    """Replicas that are registered but silent, and an engine that does not answer the leader."""
    for replica in replicas:
        age = replica.age_seconds(now)
        if age is not None and replica.freshness(now) is not Freshness.FRESH:
            seen = (
                f"has not been heard from for {span(age)}: it is gone, stopped, or cut off from etcd, or the"
                " clocks differ"
            )
            yield Point(f"replica {replica.id}", CheckStatus.WARNING, seen)
        if replica.role == "leader" and replica.engine_answers is not None:
            heard = replica.engine_age_seconds
            when = (
                f"last heard from {span(heard + (age or 0.0))} ago"
                if heard is not None
                else "not yet heard from in this term"
            )
            verdict = CheckStatus.OK if replica.engine_answers else CheckStatus.WRONG
            yield Point(
                "engine",
                verdict,
                f"{'answers' if replica.engine_answers else 'does not answer'} {replica.id}, {when}",
            )


def _rights(session: Session) -> Iterator[Point]:
    """The rights that the engine needs, as the API server reports them.

    A missing right is shown as the rule that grants it.
    """
    from controller.cli.engines import open_kubernetes
    from controller.errors import TallyError

    try:
        engine = open_kubernetes(session, session.client.replicas.all())
    except TallyError as error:
        yield Point("kubernetes", CheckStatus.WRONG, str(error))
        return
    if not engine.is_verified:
        yield Point(
            "kubernetes",
            CheckStatus.WARNING,
            "the kubeconfig sets insecure-skip-tls-verify: the API server's certificate is not verified",
        )
    try:
        pools = (view.definition for view in session.client.pools())
        follows = any(pool is not None and pool.capacity_from is not None for pool in pools)
        missing = engine.check_rights(follows_nodes=follows)
    except TallyError as error:
        yield Point("kubernetes", CheckStatus.WRONG, str(error))
        return
    finally:
        engine.close()
    for right in missing:
        yield Point(
            "kubernetes", CheckStatus.WRONG, f"a right is missing; add this rule to the role: {right}"
        )
    if not missing:
        yield Point("kubernetes", CheckStatus.OK, f"all rights are granted in {', '.join(engine.namespaces)}")


def _versions(store: EtcdStore, session: Session) -> Iterator[Point]:
    found = store.gateway.versions(
        deadline=session.client.clock.boottime() + session.settings.request_timeout_seconds
    )
    for endpoint, text in found.items():
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
        if match is None:
            yield Point(endpoint, CheckStatus.WRONG, text)
            continue
        major, minor, patch = map(int, match.groups())
        needed = SAFE_FROM.get((major, minor), 0 if (major, minor) > max(SAFE_FROM) else None)
        if needed is not None and patch >= needed:
            yield Point(endpoint, CheckStatus.OK, f"etcd {text}")
        else:
            known = ", ".join(f"{a}.{b}.{c}" for (a, b), c in SAFE_FROM.items())
            yield Point(
                endpoint,
                CheckStatus.WARNING,
                f"etcd {text} has known faults: upgrade to at least one of {known}. In this version, a user"
                " who may write any key may write every key, by a nested transaction",
            )


def _ask(store: EtcdStore, session: Session, path: str, body: bytes = b"{}") -> dict[str, Any] | str:
    """etcd's answer, or its refusal as text. These points need more rights than Tally needs otherwise."""
    import msgspec

    from controller.store.etcd.gateway import RpcError, Unanswered

    decode = msgspec.json.Decoder(dict[str, Any]).decode
    try:
        return store.gateway.call(path, body, decode, deadline=session.client.clock.boottime() + 5.0)
    except (RpcError, Unanswered) as error:
        return str(error)


def _authentication(store: EtcdStore, session: Session) -> Iterator[Point]:
    if session.settings.user:
        yield Point("authentication", CheckStatus.OK, f"signed in as {session.settings.user}")
        yield from _roles(store, session, session.settings.user)
        return
    answer = _ask(store, session, "/auth/status")
    if isinstance(answer, dict) and not answer.get("enabled") and not session.settings.cert_file:
        yield Point(
            "authentication",
            CheckStatus.WARNING,
            "etcd accepts writes from anyone who can reach it: set up users or client certificates",
        )


def _roles(store: EtcdStore, session: Session, user: str) -> Iterator[Point]:
    """Whether the user's roles are those of this release."""
    auth = EtcdAuth(store.gateway, session.client.keys, session.settings.request_timeout_seconds)
    try:
        found = auth.lacking(user)
    except StoreError as error:
        yield Point("roles", CheckStatus.WARNING, f"cannot be read: {error}")
        return
    for role, lacks in found.items():
        if lacks:
            yield Point(
                "roles",
                CheckStatus.WRONG,
                f"{role} lacks what this release needs ({', '.join(lacks)}): run `tally auth init` again, as"
                " etcd's root",
            )
        else:
            yield Point("roles", CheckStatus.OK, f"{role} has what this release needs")


def _space(store: EtcdStore, session: Session) -> Iterator[Point]:
    status, alarms = (
        _ask(store, session, "/maintenance/status"),
        _ask(store, session, "/maintenance/alarm", b'{"action":"GET"}'),
    )
    if isinstance(status, str):
        yield Point(
            "space",
            CheckStatus.WARNING,
            f"cannot be read (etcd tells its root alone, if it has users): {status}",
        )
    else:
        used, quota = int(status.get("dbSize", 0)), int(status.get("dbSizeQuota", 0)) or DEFAULT_QUOTA_BYTES
        told = "" if status.get("dbSizeQuota") else ", etcd's default"
        seen = f"{used / 2**20:.0f} MiB of {quota / 2**20:.0f} MiB{told}"
        verdict = CheckStatus.OK if used < FULL_AT * quota else CheckStatus.WARNING
        yield Point(
            "space",
            verdict,
            seen if verdict is CheckStatus.OK else f"{seen}: compact and defragment, or raise the quota",
        )
    if isinstance(alarms, dict) and alarms.get("alarms"):
        names = ", ".join(sorted({str(alarm.get("alarm")) for alarm in alarms["alarms"]}))
        yield Point("alarms", CheckStatus.WRONG, f"{names}: see `etcdctl alarm list`")


def _history(store: EtcdStore, session: Session, revision: int) -> Iterator[Point]:
    """Whether etcd compacts its history.

    etcd does not report that setting, so an old revision is read to see whether it still exists.
    """
    if revision < UNCOMPACTED_REVISIONS:
        return
    client = session.client
    try:
        store.load(client.keys.leader, deadline=client.clock.boottime() + 5.0, revision=1)
    except Compacted:
        yield Point("history", CheckStatus.OK, "is compacted")
        return
    flags = "--auto-compaction-mode=periodic --auto-compaction-retention=1h"
    yield Point(
        "history",
        CheckStatus.WARNING,
        f"{revision} revisions were never compacted and will fill etcd: start etcd with {flags}",
    )


def _clocks(session: Session) -> Iterator[Point]:
    """Compare this machine's clock, by which times are shown, with the date of etcd's answers."""
    import requests

    settings = session.settings
    with requests.Session() as http:
        http.trust_env = False
        http.verify = str(settings.ca_file) if settings.ca_file else True
        http.cert = (str(settings.cert_file), str(settings.key_file)) if settings.cert_file else None
        for endpoint in settings.etcd:
            try:
                date = http.get(f"{endpoint}/version", timeout=settings.request_timeout_seconds).headers[
                    "Date"
                ]
                skew = session.client.clock.now() - parsedate_to_datetime(date).timestamp()
            except (requests.RequestException, KeyError, ValueError):
                continue  # its version's point reports that
            # The date is truncated to whole seconds.
            if -SKEW_SECONDS <= skew <= SKEW_SECONDS + 1:
                yield Point("clocks", CheckStatus.OK, f"within {SKEW_SECONDS:g} s of {endpoint}")
            else:
                yield Point(
                    "clocks",
                    CheckStatus.WARNING,
                    f"this machine is {skew:+.0f} s from {endpoint}: synchronize both clocks (NTP)",
                )
