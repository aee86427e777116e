"""The shares of a pool are rebuilt in several transactions, and leaders end in the midst of it.

No hold of the pool changes meanwhile. An auditor that shares no code with Tally looks at every revision.
"""

from __future__ import annotations

from collections import Counter

import pytest
from structlog.testing import capture_logs

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.shares import Share
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.accounts import day_name
from controller.core.planning.draft import Limits
from controller.store.base import Put, Transaction
from controller.views.usage import closed_days
from tests.support.bench import Stage, StagedReplica, observation
from tests.support.share_auditor import audit
from tests.support.share_records import Event

OWNERS = 300  # more than two transactions have room for
AT_ONCE = 100  # submissions in a transaction


def filled(tasks: int, owners: int = OWNERS, *, is_shared: bool = False) -> tuple[Stage, StagedReplica]:
    """A pool in which so many tasks of so many owners hold a cpu each."""
    stage = Stage()
    stage.pool(capacity={"cpu": tasks}, sharing={} if is_shared else None)
    writes = []
    for n in range(tasks):
        fields = {"id": f"t{n}", "owner": f"o{n % owners}", "command": ["true"], "resources": {"cpu": 1}}
        value = codec.encode_spec(parse_spec(fields), stage.clock.now(), Op("filled"))
        writes.append(Put(stage.keys.task(f"t{n}"), value))
    for first in range(0, tasks, AT_ONCE):
        some = tuple(writes[first : first + AT_ONCE])
        stage.store.commit(Transaction((), some, Op(f"f{first}")), deadline=float("inf"))
    leader = stage.leader()
    leader.acknowledge(leader.run())
    return stage, leader


def history(stage: Stage, since: int = 1) -> list[Event]:
    """All that the store was told after that revision."""
    last = stage.model().revision
    watch = stage.store.watch(stage.keys.prefix, after=since)
    found: list[Event] = []
    for batch in watch:
        for event in batch.events:
            value = event.item.value if event.item is not None else None
            found.append(Event(event.key, value, batch.revision))
        if batch.revision >= last:
            break
    watch.close()
    return found


def share_again(stage: Stage, tasks: int) -> None:
    """The pool is shared from now on; its shares are not whole."""
    stage.pool(capacity={"cpu": tasks}, sharing={})
    assert stage.model().is_rebuilding("default")


def damage(stage: Stage, owners: int) -> None:
    """Somebody removes shares and writes others, and then the ledger."""
    model = stage.model()
    for n in range(owners - owners // 10):
        name, share = f"o{n}", model.share("default", f"o{n}")
        if n % 2:
            stage.delete(stage.keys.share("default", name))
        else:
            forged = {"held": {"cpu": "77"}, "running": n, "used": {"cpu": "5"}, "at": share.at, "op": "hand"}
            stage.put(stage.keys.share("default", name), codec.encode(forged))
    stage.put(stage.keys.ledger("default"), model.ledger("default").encode(Op("hand")))


def killed_in_turn(stage: Stage, tasks: int) -> int:
    """Leaders end after one transaction each, until shares are whole; returns how many were needed.

    Each has been told that the first task has ended, which it may not write before.
    """
    pending = [observation((f"t{n}", 1), Phase.PENDING) for n in range(1, tasks)]
    for leaders in range(1, 20):
        stage.elect()
        stage.clock.move(0.25)
        leader = stage.leader(*pending)
        leader.see(observation(("t0", 1), Phase.SUCCEEDED))
        assert leader.reconciler.step()
        if leader.model.ledger("default").shares_are_whole:
            leader.run()
            return leaders
        assert stage.state("t0") == "Pending", "no hold changes meanwhile"
    raise AssertionError("the shares do not become whole")


@pytest.mark.parametrize(
    ("tasks", "is_damaged"),
    [
        (1000, False),
        (1000, True),
        pytest.param(10_000, False, marks=pytest.mark.slow),
        pytest.param(10_000, True, marks=pytest.mark.slow),
    ],
    ids=["first", "damaged", "first-many", "damaged-many"],
)
def test_many_holds_whose_leaders_are_killed(tasks: int, is_damaged: bool) -> None:
    """Each leader writes one transaction. What is held is then right for each of 300 owners, and so is, from
    then on, what they use.
    """
    stage, _ = filled(tasks, is_shared=is_damaged)
    damage(stage, OWNERS) if is_damaged else share_again(stage, tasks)
    before = stage.model().revision
    assert killed_in_turn(stage, tasks) == 3
    stage.check()
    model = stage.model()
    assert stage.state("t0") == "Succeeded"
    counts = Counter(f"o{n % OWNERS}" for n in range(1, tasks))
    assert {owner: share.running for owner, share in model.shares["default"].items()} == counts
    assert {owner: share.held.get("cpu") for owner, share in model.shares["default"].items()} == {
        owner: 1000 * count for owner, count in counts.items()
    }
    told = history(stage)
    auditor = audit(told, stage.keys.cluster)
    wrong = [
        finding
        for finding in auditor.findings
        if int(finding.removeprefix("revision ").partition(":")[0]) > before
    ]
    assert wrong == []
    assert auditor.rebuilds == 1
    holds = {event.key for event in told if event.mod > before and event.key.startswith(stage.keys.state(""))}
    assert holds == {stage.keys.state("t0")}, "the states of all others are as they were"


def used(stage: Stage) -> dict[str, int]:
    """What each owner has used by now, in milli-cpu × ms."""
    now = round(stage.clock.now() * 1000)
    return {owner: share.used_at(now).get("cpu") for owner, share in stage.model().shares["default"].items()}


@pytest.mark.parametrize("kills", [False, True])
def test_all_transactions_of_a_rebuild_charge_by_one_rule(kills: bool) -> None:
    """Tasks of 300 owners end while the pool is not shared. All are charged as if they had held until the
    shares were rebuilt, also those that a later transaction or a later leader writes.
    """
    stage, leader = filled(OWNERS, is_shared=True)
    stage.pool(capacity={"cpu": OWNERS})
    leader.sync()
    leader.see(*(observation((f"t{n}", 1), Phase.SUCCEEDED) for n in range(1, OWNERS)))
    while leader.reconciler.step():
        pass
    stage.clock.move(10)
    share_again(stage, OWNERS)
    leaders = 1
    while stage.model().is_rebuilding("default"):
        if kills:
            stage.elect()
            leader, leaders = stage.leader(observation(("t0", 1), Phase.RUNNING)), leaders + 1
        else:
            leader.sync()
        assert leader.reconciler.step()
    assert leaders == (4 if kills else 1)
    assert used(stage) == {f"o{n}": 1000 * 10_000 for n in range(OWNERS)}
    stage.check()
    assert audit(history(stage), stage.keys.cluster).findings == []


def test_one_share_above_what_a_transaction_should_have_is_written_all_the_same() -> None:
    """An etcd that takes little at once: a batch without a single share would be the leader's last word."""
    stage, leader = filled(2, 2)
    share_again(stage, 2)
    leader.sync()
    leader.planner.limits = Limits(16, 64)
    leader.run()
    assert stage.model().share("default", "o1").held == Vector({"cpu": 1000})
    stage.check()


def test_a_share_that_is_edited_during_a_rebuild_is_found_before_its_end() -> None:
    """The leader has looked at that owner already. It looks at all of them once more before the last word."""
    stage, leader = filled(OWNERS)
    share_again(stage, OWNERS)
    leader.sync()
    assert leader.reconciler.step()
    (first, *_) = stage.model().shares["default"]
    stage.put(stage.keys.share("default", first), codec.encode({"held": {"cpu": "9"}, "op": "hand"}))
    leader.sync()
    leader.run()
    leader.sync()  # the last part waits until the watch has shown what came before it
    leader.run()
    assert stage.model().ledger("default").shares_are_whole
    assert stage.model().share("default", first) != Share()
    assert stage.model().share("default", first).held == Vector({"cpu": 1000})
    stage.check()


def test_other_pools_do_not_wait_for_the_end_of_a_rebuild() -> None:
    """Between two of its transactions comes what the others have to do."""
    stage, leader = filled(OWNERS)
    stage.pool("other", sharing={})
    stage.submit("elsewhere", pool="other", owner="o1")
    leader.sync()
    leader.acknowledge(leader.run())
    share_again(stage, OWNERS)
    leader.sync()
    leader.see(observation(("elsewhere", 1), Phase.SUCCEEDED))
    while stage.state("elsewhere") != "Succeeded":
        assert leader.reconciler.step()
    model = stage.model()
    assert (model.is_rebuilding("default"), model.is_rebuilding("other")) == (True, False)
    leader.run()
    leader.sync()
    leader.run()
    assert not stage.model().is_rebuilding("default")
    stage.check()


def test_days_of_many_owners_are_closed_in_transactions_that_etcd_takes() -> None:
    """Nobody led for a month, as after a restore of an old backup."""
    stage, _ = filled(2000, 2000, is_shared=True)
    stage.clock.move(30 * 86_400)
    stage.elect()
    leader = stage.leader(*(observation((f"t{n}", 1), Phase.PENDING) for n in range(2000)))
    with capture_logs() as logs:
        leader.run()
    assert [entry for entry in logs if "too large" in entry["event"]] == []
    days = {names[0] for _, names, _ in stage.model().known("usage")}
    assert len(days) == 30
    assert stage.model().ledger("default").account.day == stage.clock.now() // 86_400
    stage.check()


@pytest.mark.parametrize(
    "kills",
    [pytest.param(False, id="one leader", marks=pytest.mark.slow), pytest.param(True, id="leaders killed")],
)
def test_one_day_may_take_several_transactions(kills: bool) -> None:
    """A day of more owners than one transaction holds; readers count it once it is whole."""
    stage, leader = filled(1200, 1200, is_shared=True)
    day = day_name(int(stage.clock.now() // 86_400))
    stage.clock.move(86_400)
    attempts = [observation((f"t{n}", 1), Phase.PENDING) for n in range(1200)]
    written, leaders = [0], 0
    while stage.model().ledger("default").account.day < stage.clock.now() // 86_400:
        if kills or not leaders:
            stage.elect()
            leader, leaders = stage.leader(*attempts), leaders + 1
            leader.planner.limits = Limits(128, 20_000 if leaders < 4 or not kills else 200_000)
        assert leader.reconciler.step()
        names = {names for _, names, _ in stage.model().known("usage")}
        assert ((day, "default") in names) == (
            stage.model().ledger("default").account.day == stage.clock.now() // 86_400
        )
        written.append(len(names))
    assert written == ([0, 1, 1, 1, 3] if kills else [0, 1, 2, 3])
    records = []
    for on, name in names:
        item, _ = stage.store.get(stage.keys.usage(on, name), deadline=float("inf"))
        assert item is not None
        records.append((on, name, item.value))
    closed = closed_days(records, day)
    assert len(closed["default"].owners) == 1200
    stage.check()
