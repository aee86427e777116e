"""A gateway's answer is lost after the write: the client sends the call again, and it takes effect once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from controller.client import Client, NotFound
from controller.client.bulk import TaskAct
from controller.client.errors import GatewayUnavailable
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Step
from controller.store.base import Committed, Delete, Guard, Transaction
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.client.test_features import release
from tests.gateway.conftest import As, Served
from tests.support.etcd import compact, in_seconds
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

TASK = {"id": "a", "owner": "vision", "command": ["true"]}
KNOWN = ["arrays", "changes", "dependencies", "gangs", "maintenance", "owners", "schedules"]


class Lossy:
    """Callers behind a proxy that loses an answer, and the leader of the installation."""

    def __init__(self, proxy: Proxy, client: Client, put_status: PutStatus) -> None:
        self.proxy = proxy
        self.client = client
        self._put_status = put_status
        self.ops: Client
        self.alice: Client

    def delete(self, key: str) -> None:
        """Delete a key as someone else would."""
        full = self.client.keys.prefix + key
        item, _ = self.client.store.get(full, deadline=in_seconds())
        assert item is not None
        gone = Transaction((Guard(full, item.mod),), (Delete(full),), Op(f"test-{item.mod}"))
        assert isinstance(self.client.store.commit(gone, deadline=in_seconds()), Committed)

    def act_on(
        self, kind: RequestKind, state: State, attempt: int, *, steps: int = 1, message: str = ""
    ) -> None:
        """Carry out the request of task a, which is then in this state."""
        done = Step(
            at=1.0, source="Failed", event=kind, state=state, request=kind, outcome="done", message=message
        )
        self.delete(f"requests/a/{kind}")
        self.put(state, attempt, steps=steps, history=(codec.encode_step(done),))

    def put(self, state: State, attempt: int, **more: object) -> None:
        """Task a is in this state from now on."""
        self._put_status("a", state, owner="vision", attempt=attempt, **more)

    def asked(self) -> tuple[str, ...]:
        """The requests of task a that wait for the leader."""
        return self.client.get("a").requests


@pytest.fixture
def lossy(client: Client, served: Served, put_status: PutStatus) -> Iterator[Lossy]:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(urlsplit(served.gateway.url).port or 0))
        made = Lossy(proxy, client, put_status)
        for name in ("ops", "alice"):
            token = served.tokens[name]
            calls = GatewayCalls(proxy.url, lambda token=token: token)  # type: ignore[misc]
            setattr(made, name, stack.enter_context(GatewayClient(calls)))
        yield made


def nothing() -> None:
    """Happens meanwhile."""


@pytest.mark.parametrize("retried", [State.FAILED, State.RUNNING, State.SUCCEEDED])
def test_a_retry_that_the_leader_has_carried_out_is_not_asked_for_again(lossy: Lossy, retried: State) -> None:
    """Whatever has become of the attempt that it began."""
    lossy.alice.submit(TASK)
    lossy.put(State.FAILED, 1)
    lossy.proxy.lose_answer(b"/retry", lambda: lossy.act_on(RequestKind.RETRY, retried, 2))
    assert lossy.alice.retry("a").message == "the leader has acted on it"
    assert lossy.asked() == ()
    lossy.put(State.FAILED, 2, steps=1)
    assert lossy.alice.retry("a").outcome == "requested"  # another one is another one


def test_a_request_that_waits_is_known_again(lossy: Lossy) -> None:
    lossy.alice.submit(TASK)
    for verb, ask in (("cancel", lossy.alice.cancel), ("hold", lossy.alice.hold)):
        lossy.proxy.lose_answer(f"/{verb}".encode(), nothing)
        assert ask("a").outcome == "requested"
        assert lossy.proxy.swallowed.is_set()
        lossy.proxy.heal()
        assert ask("a").outcome == "already requested"


def test_what_others_changed_since_is_not_changed_back(lossy: Lossy) -> None:
    """A hold that the leader has carried out, and a release by another since; likewise of many tasks."""
    lossy.alice.submit(TASK)
    lossy.put(State.WAITING_RETRY, 1)

    def held_and_released() -> None:
        lossy.act_on(RequestKind.CHANGE, State.WAITING_RETRY, 1, message="on hold, requested by alice")

    lossy.proxy.lose_answer(b"/hold", held_and_released)
    assert lossy.alice.hold("a").message == "the leader has acted on it"
    assert lossy.asked() == ()
    lossy.put(State.WAITING_RETRY, 1)
    lossy.proxy.lose_answer(b":act", held_and_released)
    [found] = lossy.alice.bulk.act(TaskAct.HOLD, [lossy.client.get("a")])
    assert found.message == "the leader has acted on it"  # type: ignore[union-attr]
    assert lossy.asked() == ()


def test_what_cannot_be_known_again_is_not_sent_again(lossy: Lossy, client: Client) -> None:
    """The confirmation of a member of an array, whose steps are told together with all others."""
    client.submit({**TASK, "array": {"size": 4}})
    lossy.proxy.lose_answer(b"/confirm-stopped", nothing)
    wait_until(lambda: lossy.ops.tasks(), "the gateway to have seen the array")
    with pytest.raises(GatewayUnavailable):
        lossy.ops.confirm_stopped("a-i0")


def test_a_step_down_ends_one_term(lossy: Lossy, put_raw: PutRaw) -> None:
    """The leader that was elected since goes on."""
    before = lossy.client.replicas.leader()
    assert before is not None

    def elect_another() -> None:
        put_raw("leader", release("r2", knows=KNOWN))

    lossy.proxy.lose_answer(b"/step-down", elect_another)
    assert lossy.ops.replicas.step_down() == before
    after = lossy.client.replicas.leader()
    assert after is not None
    assert (after.id, after.term != before.term) == ("r2", True)


def test_pools(lossy: Lossy) -> None:
    """A pool is applied, paused, drained and deleted, and the answer says so."""
    proxy, ops = lossy.proxy, lossy.ops
    acts: list[tuple[bytes, Callable[[], object], object]] = [
        (b"PUT ", lambda: ops.apply_pool({"name": "p", "capacity": {"cpu": 1}}).outcome, "created"),
        (b"PUT ", lambda: ops.apply_pool({"name": "p", "capacity": {"cpu": 2}}).outcome, "configured"),
        (b"/pause", lambda: ops.admission.pause("p"), True),
        (b"/resume", lambda: ops.admission.resume("p"), True),
        (b"/drain", lambda: ops.maintenance.drain("p", 4e9, 5e9).window.starts_at, 4e9),
        (b"/undrain", lambda: [window.starts_at for window in ops.maintenance.undrain("p")], [4e9]),
        (b"DELETE ", lambda: ops.delete_pool("p"), None),
    ]
    for mark, act, told in acts:
        proxy.lose_answer(mark, nothing)
        assert act() == told
        assert proxy.swallowed.is_set()
        proxy.heal()
    assert [pool.name for pool in lossy.client.pools()] == ["default"]
    assert not ops.admission.resume("default")
    with pytest.raises(NotFound):
        ops.delete_pool("p")


def test_features_and_schedules(lossy: Lossy, put_raw: PutRaw) -> None:
    proxy, ops = lossy.proxy, lossy.ops
    put_raw("leader", release("r1", knows=KNOWN))
    nightly = {"name": "s", "cron": "0 2 * * *", "task": {"command": ["true"]}}
    acts: list[tuple[bytes, Callable[[], object], object]] = [
        (b"/enable", lambda: ops.features.enable("schedules"), ("schedules",)),
        (b"PUT ", lambda: ops.schedules.apply(nightly).outcome, "created"),
        (b"/suspend", lambda: ops.schedules.suspend("s"), True),
        (b"/resume", lambda: ops.schedules.resume("s"), True),
        (b"DELETE ", lambda: ops.schedules.delete("s"), None),
        (b"/drop", lambda: ops.features.drop("schedules"), True),
    ]
    for mark, act, told in acts:
        proxy.lose_answer(mark, nothing)
        assert act() == told
        assert proxy.swallowed.is_set()
        proxy.heal()
    assert not ops.features.drop("schedules")


def test_a_key_is_its_callers(as_: As, client: Client) -> None:
    """The same key of another caller is another call, and so is another path of the same one."""
    key = {"Idempotency-Key": "k"}
    client.submit({**TASK, "owner": "default"})
    ops, watcher = as_("ops"), as_("watcher")
    assert [ops.post("/v1/pools/default/pause", headers=key).json()["changed"] for _ in range(2)] == [
        True
    ] * 2
    assert watcher.post("/v1/pools/default/pause", headers=key).status_code == 403
    assert ops.post("/v1/pools/default/pause").json() == {"changed": False}
    assert ops.post("/v1/pools/default/resume", headers=key).json() == {"changed": True}


def test_what_is_compacted_is_not_guessed(as_: As, client: Client) -> None:
    key = {"Idempotency-Key": "k"}
    client.maintenance.drain("default", 4e9, 5e9)
    ops = as_("ops")
    assert len(ops.post("/v1/pools/default/undrain", headers=key).json()["items"]) == 1
    assert len(ops.post("/v1/pools/default/undrain", headers=key).json()["items"]) == 1
    compact(client.store, client._reading.model("pools/").revision)  # type: ignore[arg-type]
    told = ops.post("/v1/pools/default/undrain", headers=key)
    assert (told.status_code, "it was done" in told.json()["detail"]) == (409, True)
