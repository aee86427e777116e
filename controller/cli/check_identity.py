"""The points of `tally check` about the installation and its engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.cli.check_point import CheckStatus, Point
from controller.core.model.installation import (
    EngineIdentity,
    EngineRecord,
    Installation,
    decode_engine,
    decode_installation,
    difference,
)
from controller.core.model.printable import counted
from controller.errors import CorruptValue, TallyError
from controller.store.base import KeyValue

if TYPE_CHECKING:
    from controller.cli.session import Session
    from controller.engine.base import Engine


def identity_points(session: Session) -> Iterator[Point]:
    """The installation, its recorded engine, the engine within reach, and the attempts of others in it."""
    keys = session.client.keys
    installation, record = (_stored(session, key) for key in (keys.installation, keys.engine))
    if installation is None:
        yield Point(
            "installation",
            CheckStatus.WARNING,
            "its id is missing: this leader, or the next one, writes it back",
        )
        return
    try:
        known = decode_installation(installation.value)
        recorded = decode_engine(record.value) if record is not None else None
    except CorruptValue as error:
        yield Point(
            "installation",
            CheckStatus.WRONG,
            f"its records are damaged: {error}; the next election restores them",
        )
        return
    yield Point("installation", CheckStatus.OK, known.id)
    yield from _of_engine(session, known, recorded)


def _stored(session: Session, key: str) -> KeyValue | None:
    client = session.client
    return client.store.get(key, deadline=client.clock.boottime() + session.settings.request_timeout_seconds)[
        0
    ]


def _of_engine(session: Session, installation: Installation, record: EngineRecord | None) -> Iterator[Point]:
    from controller.cli.engines import open_engine

    try:
        engine = open_engine(session)
        if engine is None:
            return
        try:
            yield from _asked(engine, installation, record)
        finally:
            engine.close()
    except TallyError as error:
        yield Point("engine", CheckStatus.WARNING, f"cannot be queried from here: {error}")


def _asked(engine: Engine, installation: Installation, record: EngineRecord | None) -> Iterator[Point]:
    own = engine.identity()
    if why := difference(record.engine, own) if record is not None else "":
        yield Point("engine", CheckStatus.WRONG, f"{why}. See `tally engine show`")
        return
    yield Point("engine", CheckStatus.OK, f"{own}, as recorded")
    if not _is_certain(own):
        rule = (
            'namespace kube-system: {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system],'
            " verbs: [get]}"
        )
        yield Point(
            "engine",
            CheckStatus.WARNING,
            f"another cluster with the same namespaces would look the same; add a rule such as: {rule}",
        )
    engine.bind(installation)
    engine.attempts()
    for mark, names in engine.others().items():
        seen = (
            f"left alone, despite the same cluster name: {counted(len(names), 'attempt')} of installation"
            f" {mark or '(none)'}"
        )
        yield Point(
            "others",
            CheckStatus.WARNING,
            f"{seen}. Change the cluster name of one of them, or see `tally engine adopt --installation`",
        )


def _is_certain(own: EngineIdentity) -> bool:
    return bool(own.id or any(own.parts.values()))
