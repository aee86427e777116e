"""What owners hold of a shared pool, and have used of it: exact, whoever leads and whatever was written."""

from __future__ import annotations

import json

import pytest

from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.requests import RepairRequest, RequestKind, Wanted
from controller.core.model.resources import Vector
from controller.core.model.shares import DAY_MS, FRACTION, Share, encode_share
from controller.core.model.task import Phase
from controller.core.planning.draft import Draft
from controller.core.planning.plan import Plan
from controller.core.planning.transitions import Moment
from controller.core.promise.invariants import check_model
from controller.store.records import to_change
from tests.support.bench import Stage, StagedReplica, observation, starts

SHARING = {"owners": {"vision": {"weight": 2}}}


@pytest.fixture
def stage() -> Stage:
    """A shared pool of 4 cpus."""
    stage = Stage()
    stage.pool(sharing=SHARING)
    return stage


def share(stage: Stage, owner: str, pool: str = "default") -> Share:
    return stage.model().share(pool, owner)


def used(stage: Stage, owner: str) -> int:
    """In milli-cpu × ms, up to now."""
    return share(stage, owner).used_at(round(stage.clock.now() * 1000)).get("cpu")


def finish(leader: StagedReplica, *names: str, phase: Phase = Phase.SUCCEEDED) -> None:
    leader.see(*(observation((name, 1), phase) for name in names))
    leader.run()


def test_a_hold_is_charged_to_its_owner_to_the_millisecond(stage: Stage) -> None:
    stage.submit("a", owner="vision", resources={"cpu": 2})
    stage.submit("b")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert (share(stage, "vision").held, share(stage, "vision").running) == (Vector({"cpu": 2000}), 1)
    stage.clock.move(12.345)
    finish(leader, "a")
    stage.clock.move(5)
    finish(leader, "b")
    assert used(stage, "vision") == 2000 * 12_345
    assert used(stage, "default") == 1000 * 17_345
    assert stage.model().ledger("default").account.used == Vector({"cpu": 2000 * 12_345 + 1000 * 17_345})
    assert share(stage, "vision").running == 0
    stage.check()


def test_a_task_that_asks_for_nothing_is_counted(stage: Stage) -> None:
    stage.submit("a", owner="vision", resources={})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert share(stage, "vision").running == 1
    finish(leader, "a")
    assert share(stage, "vision").running == 0
    stage.check()


@pytest.mark.parametrize("fields", [{}, {"array": {"size": 1, "gang": True}}], ids=["task", "gang"])
@pytest.mark.parametrize("is_damaged", [False, True], ids=["a ledger", "an unreadable ledger"])
def test_what_holds_nothing_is_counted_when_its_pool_is_shared_again(
    stage: Stage, fields: dict[str, object], is_damaged: bool
) -> None:
    """It begins in a shared pool, and ends while that is not shared: no hold changes, and the shares do.

    What a ledger that cannot be read says of its shares is not known: it is mended first.
    """
    stage.submit("a", owner="vision", resources={}, **fields)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert share(stage, "vision").running == 1
    stage.pool()
    ledger = stage.value(key := stage.keys.ledger("default"))
    if is_damaged:
        stage.put(key, b"{")
    leader.sync()
    finish(leader, "a-i0" if fields else "a")
    if is_damaged:
        assert not stage.status("a").is_finished
        stage.put(key, ledger)
        leader.sync()
        leader.run()
    assert stage.state("a") == "Succeeded"
    stage.pool(sharing=SHARING)
    leader.sync()
    leader.run()
    assert share(stage, "vision").running == 0
    stage.check()


def test_a_clock_that_is_set_back_charges_nothing_twice(stage: Stage) -> None:
    """The next leader's clock is behind: its time is the last one's until its clock has caught up."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(100)
    stage.submit("b")
    leader.sync()
    leader.run()  # something is charged at this time
    admitted = stage.model().ledger("default").account.at
    stage.clock.move(-60)
    stage.elect()
    successor = stage.leader(observation(("a", 1), Phase.RUNNING), observation(("b", 1), Phase.RUNNING))
    successor.run()
    finish(successor, "a")
    assert share(stage, "vision").used == Vector({"cpu": 1000 * 100_000})
    steps = codec.decode_history(stage.status("a"))
    assert round(steps[-1].at * 1000) == admitted == share(stage, "vision").at
    stage.check()


def test_the_owner_is_that_of_the_admission(stage: Stage) -> None:
    """A spec that is put again by hand names another owner: what is held stays where it is charged."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.submit("a", owner="other")
    leader.sync()
    finish(leader, "a")
    assert share(stage, "vision").held == Vector()
    assert share(stage, "other") == Share()
    stage.check()


def test_shares_begin_when_a_pool_is_shared(stage: Stage) -> None:
    """What is held already is charged from then on, and no hold changes while the shares are built."""
    stage.pool("plain")
    stage.submit("a", pool="plain", owner="vision")
    stage.submit("b", pool="plain")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    assert stage.model().shares.get("plain") is None
    stage.pool("plain", sharing=SHARING)
    leader.sync()
    stage.clock.move(3)
    leader.run()
    assert share(stage, "vision", "plain").held == Vector({"cpu": 1000})
    stage.check()
    stage.clock.move(2)
    finish(leader, "a", "b")
    assert share(stage, "vision", "plain").used == Vector({"cpu": 2_000_000})
    stage.check()


def test_a_ledger_that_something_else_wrote_has_its_shares_rebuilt(stage: Stage) -> None:
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.put(stage.keys.share("default", "vision"), b'{"held":{"cpu":"3"},"running":9,"at":5,"op":"hand"}')
    ledger = stage.model().ledger("default")
    stage.put(stage.keys.ledger("default"), ledger.encode(Op("hand")))
    leader.sync()
    leader.run()
    assert share(stage, "vision").held == Vector({"cpu": 1000})
    stage.check()


@pytest.mark.parametrize("again", [False, True], ids=["rebuilt", "shared anew"])
def test_a_task_whose_spec_cannot_be_read_counts_for_its_owners_share(stage: Stage, again: bool) -> None:
    """What it holds is in its status; a gang is one running task, and holds nothing itself by then."""
    stage.submit("a", owner="vision")
    stage.submit("g", owner="vision", array={"gang": True, "size": 2})
    leader = stage.leader()
    for _ in range(2):  # the gang is admitted, and then its members begin
        leader.acknowledge(leader.run())
    before = share(stage, "vision")
    assert (before.held, before.running) == (Vector({"cpu": 3000}), 2)
    for name in ("a", "g"):
        stage.put(stage.keys.task(name), b"?")
    if again:
        stage.pool()
        leader.sync()
        leader.run()
        stage.pool(sharing=SHARING)
    else:
        stage.put(stage.keys.ledger("default"), stage.model().ledger("default").encode(Op("hand")))
    for _ in range(2):
        leader.sync()
        leader.run()
    assert (share(stage, "vision").held, share(stage, "vision").running) == (before.held, before.running)
    assert [each for each in check_model(stage.model()) if each.invariant == "I9"] == []


def test_a_share_that_was_deleted_before_the_ledger_was_written_is_rebuilt(stage: Stage) -> None:
    """The watch is late. The refusal that shows its absence is of the revision at which the leader itself
    wrote the ledger: the deletion is not taken for a part of that.
    """
    for name, owner in (("a", "vision"), ("b", "vision"), ("c", "other")):
        stage.submit(name, owner=owner)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.sync()
    stage.delete(stage.keys.share("default", "vision"))
    finish(leader, "c")
    finish(leader, "a")
    for _ in range(2):  # the shares are rebuilt, and then the end is recorded
        leader.sync()
        leader.run()
    assert share(stage, "vision").held == Vector({"cpu": 1000})
    assert share(stage, "vision").running == 1
    stage.check()


def test_a_forged_share_is_found_and_repaired(stage: Stage) -> None:
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    forged = share(stage, "vision")._replace(held=Vector({"cpu": 3000}))
    stage.put(stage.keys.share("default", "vision"), encode_share(forged, Op("hand")))
    with pytest.raises(AssertionError, match="I9"):
        stage.check()
    wanted = RepairRequest(findings=(Wanted(invariant="I9", subject="pool/default"),), by="op")
    stage.put(stage.keys.repair("r"), codec.encode(wanted))
    leader.sync()
    leader.run()
    leader.list_engine(observation(("a", 1), Phase.RUNNING))
    leader.run()
    leader.sync()  # a rebuild waits for the watch to show all up to the ledger
    leader.run()
    assert share(stage, "vision").held == Vector({"cpu": 1000})
    stage.check()


def test_an_owner_whose_share_cannot_be_read_waits_alone(stage: Stage) -> None:
    stage.submit("a", owner="vision")
    stage.submit("b")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.put(stage.keys.share("default", "vision"), b"rubbish")
    stage.submit("a2", owner="vision")
    stage.submit("b2")
    leader.sync()
    assert starts(leader.run()) == ["b2-1"]
    finish(leader, "a", "b")
    assert (stage.state("a"), stage.state("b")) == ("Pending", "Succeeded")
    mod = stage.model().mod_of("shares", ("default", "vision"))
    key = "key/shares/default/vision"
    wanted = RepairRequest(findings=(Wanted(invariant="layout", subject=key, mod=mod),), by="op")
    stage.put(stage.keys.repair("r"), codec.encode(wanted))
    leader.sync()
    leader.run()
    leader.list_engine(observation(("a", 1), Phase.SUCCEEDED), observation(("b2", 1), Phase.RUNNING))
    leader.run()
    leader.sync()  # a rebuild waits for the watch to show all up to the ledger
    leader.run()
    assert (stage.state("a"), stage.state("a2")) == ("Succeeded", "Pending")
    stage.check()


def test_a_day_is_closed_before_anything_is_charged_in_the_next(stage: Stage) -> None:
    day = round(stage.clock.now() * 1000) // DAY_MS
    stage.clock.move((day + 1) * 86_400 - 10 - stage.clock.now())
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(25)  # into the next day
    finish(leader, "a")
    item, _ = stage.store.get(stage.keys.usage("1970-01-12", "default"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert json.loads(item.value)["used"]["vision"] == {"cpu": str(1000 * 10_000)}
    assert share(stage, "vision").used == Vector({"cpu": 1000 * 25_000})
    assert stage.model().ledger("default").account.day == day + 1
    stage.check()


@pytest.mark.parametrize("rebuilds", [False, True])
def test_nothing_is_charged_in_a_day_that_was_closed(stage: Stage, rebuilds: bool) -> None:
    """By whatever clock: what was used by its end is written down."""
    day = round(stage.clock.now() * 1000) // DAY_MS
    stage.clock.move((day + 1) * 86_400 - 10 - stage.clock.now())
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(25)
    leader.sync()
    leader.run()
    assert stage.model().ledger("default").account.day == day + 1
    stage.clock.move(-20)
    if rebuilds:
        ledger = stage.model().ledger("default")
        stage.put(stage.keys.ledger("default"), ledger.encode(Op("by hand")))
    stage.elect()
    leader = stage.leader(observation(("a", 1), Phase.RUNNING))
    leader.run()
    finish(leader, "a")
    account = stage.model().ledger("default").account
    assert (account.day, account.at) == (day + 1, (day + 1) * DAY_MS)
    assert share(stage, "vision").used == Vector({"cpu": 1000 * 10_000})
    stage.check()


def test_a_plan_that_was_begun_while_the_pool_was_not_shared_waits_for_the_days_end(stage: Stage) -> None:
    """It is midnight; the plan is begun ahead, and finished when the pool is shared again."""
    for name in "abc":
        stage.submit(name, owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    day = stage.model().ledger("default").account.day
    stage.pool()
    stage.clock.move(86_400)
    stage.request("a", RequestKind.RETRY)
    leader.sync()
    first = leader.planner.plan(stage.clock.now())
    stage.request("b", RequestKind.RETRY)
    leader.sync()
    leader.planner.plan_ahead(first, stage.clock.now())
    assert leader.planner.is_ahead
    leader.commit(first)
    stage.pool(sharing=SHARING)
    stage.submit("d", owner="vision")
    leader.sync()
    second = leader.planner.plan(stage.clock.now())
    assert ([change.task_id for change in second.changes], second.shares) == (["b"], [])
    leader.commit(second)
    leader.run()
    assert (stage.state("d"), stage.model().ledger("default").account.day) == ("Pending", day + 1)
    stage.check()


@pytest.fixture
def release(stage: Stage) -> tuple[StagedReplica, Plan]:
    """It is planned while the pool is not shared, and not committed yet; the pool is shared again."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.pool()
    stage.clock.move(1)
    leader.sync()
    leader.see(observation(("a", 1), Phase.SUCCEEDED))
    plan = leader.planner.plan(stage.clock.now())
    assert (plan.ledgers[0].ledger.held, plan.shares) == (Vector(), [])
    stage.pool(sharing=SHARING)
    stage.submit("b", owner="research")
    leader.sync()
    return leader, plan


def test_shares_are_rebuilt_when_a_pool_is_shared_again_while_a_hold_is_released(
    stage: Stage, release: tuple[StagedReplica, Plan]
) -> None:
    """What is planned ahead of the release's answer changes no share either."""
    leader, plan = release
    leader.planner.plan_ahead(plan, stage.clock.now())
    assert not leader.planner.is_ahead
    leader.commit(plan)
    leader.sync()
    assert not stage.model().ledger("default").shares_are_whole
    stage.clock.move(1)
    leader.acknowledge(leader.run())
    assert share(stage, "vision").held == Vector()
    assert share(stage, "research").held == Vector({"cpu": 1000})
    stage.check()


def test_no_draft_says_that_shares_are_whole_which_were_not(
    stage: Stage, release: tuple[StagedReplica, Plan]
) -> None:
    """Nor one that counts in the account whom it stops."""
    leader, plan = release
    draft = Draft(leader.model, leader.planner.limits, Moment(stage.clock.now(), 1, Op("op")), plan)
    draft.count_stopped("default", 1)
    draft.follows(leader.model.revision + 1, is_shown=False)
    [change] = draft.finish().ledgers
    assert not change.ledger.shares_are_whole


def test_a_ledger_of_a_pool_that_was_never_shared_stays_as_it_was() -> None:
    """Older replicas and tools read it: nothing is added to it."""
    stage = Stage()
    stage.pool()
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    item, _ = stage.store.get(stage.keys.ledger("default"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert set(json.loads(item.value)) == {"version", "held", "op"}
    assert stage.model().ledger("default")._replace(mod=0) == Ledger(Vector({"cpu": 1000}))


def repair(stage: Stage, leader: StagedReplica) -> None:
    """An operator has the pool's shares repaired."""
    wanted = RepairRequest(findings=(Wanted(invariant="I9", subject="pool/default"),), by="op")
    stage.put(stage.keys.repair("r"), codec.encode(wanted))
    leader.sync()
    leader.run()
    leader.list_engine(observation(("a", 1), Phase.RUNNING))
    leader.run()
    leader.sync()
    leader.run()
    stage.check()


def damage(stage: Stage, leader: StagedReplica, owner: str, **fields: object) -> None:
    """Somebody writes a share by hand, and it is repaired."""
    stage.put(stage.keys.share("default", owner), json.dumps({"held": {}, "op": "hand", **fields}).encode())
    repair(stage, leader)


def test_a_share_that_somebody_wrote_meanwhile_is_not_written_over_unseen(stage: Stage) -> None:
    """The transaction compares it, though the ledger is as it was."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    edited = {"held": {"cpu": "3"}, "running": 7, "op": "hand", "at": round(stage.clock.now() * 1000)}
    stage.put(stage.keys.share("default", "vision"), json.dumps(edited).encode())
    finish(leader, "a")
    assert stage.state("a") == "Pending", "the transaction was refused, and the shares are rebuilt first"
    settle(leader)
    assert stage.state("a") == "Succeeded"
    assert (share(stage, "vision").held, share(stage, "vision").running) == (Vector(), 0)
    stage.check()


EDITS: dict[str, dict[str, object] | None] = {
    "lowered": {"held": {}, "running": 0},
    "raised": {"held": {"cpu": "9"}, "running": 9},
    "counted wrong": {"running": 0},
    "charged ahead of all others": {"recent": {"cpu": "9" * 30}},
    "below zero": {"used": {"cpu": "-5"}, "recent": {"cpu": "-5"}},
    "emptied": {"used": {}, "at": 0},
    "charged since ever": {"at": 0},
    "charged from later on": {"at": 1_000_000_000 + 10 * 60_000},
    "charged from the day after on": {"at": 1_000_000_000 + 2 * DAY_MS},
    "charged too much": {"used": {"cpu": "1000000000"}},
    "deleted": None,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("when", ["while a leader looks", "while nobody leads", "while the pool is away"])
def test_a_share_that_a_hand_has_written_is_put_right_before_any_hold_changes(
    stage: Stage, edit: dict[str, object] | None, when: str
) -> None:
    """Else its owner would pass its limit by what the share does not say."""
    sharing = {"owners": {"vision": {"limit": {"cpu": 2}, "max_running": 2}}}
    stage.pool(sharing=sharing)
    stage.pool("other", sharing={})  # it is looked at when the term begins, and tells nothing of the first
    for name in "abcd":
        stage.submit(name, owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    follower = Model()
    follow(stage, follower)
    assert share(stage, "vision").running == 2
    stage.clock.move(5)
    key = stage.keys.share("default", "vision")
    if when == "while the pool is away":
        stage.delete(stage.keys.pool("default"))
    if edit is None:
        stage.delete(key)
    else:
        stored = codec.decode_mapping(encode_share(share(stage, "vision"), Op("hand")))
        stage.put(key, codec.encode({**stored, **edit}))
    if when != "while a leader looks":
        stage.elect()
        leader = stage.leader(observation(("a", 1), Phase.RUNNING), observation(("b", 1), Phase.RUNNING))
    if when == "while the pool is away":
        settle(leader)
        stage.pool(sharing=sharing)
    follow(stage, follower)
    assert follower.is_rebuilding("default")
    settle(leader)
    assert (share(stage, "vision").held, share(stage, "vision").running) == (Vector({"cpu": 2000}), 2)
    assert share(stage, "vision").recent.get("cpu") <= 4000 * FRACTION
    assert [stage.state(name) for name in "abcd"].count("Created") == 2
    assert used(stage, "vision") == 2000 * 5000, "as the pool's account says"
    assert stage.model().ledger("default").account.at == round(stage.clock.now() * 1000)
    follow(stage, follower)
    assert not follower.is_rebuilding("default")
    stage.clock.move(3)
    finish(leader, "a")
    assert [stage.state(name) for name in "abcd"].count("Created") == 1
    stage.check()


def test_an_unreadable_share_is_no_wrong_sum(stage: Stage) -> None:
    """What it says is not known, and the key is named. The audit says no more than that."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(5)
    finish(leader, "a")
    stage.put(stage.keys.share("default", "vision"), b"{")
    assert [finding.subject for finding in check_model(stage.model())] == ["key/shares/default/vision"]


def test_shares_are_rebuilt_when_one_status_is_mended_and_another_breaks(stage: Stage) -> None:
    """As many cannot be read as before, but others: what the mended one holds counts again."""
    stage.submit("a", owner="vision")
    stage.submit("b", owner="vision", resources={"cpu": 2})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    statuses = {key: stage.value(key) for key in map(stage.keys.state, "ab")}
    a, b = statuses
    stage.put(a, b"torn")
    stage.delete(stage.keys.share("default", "vision"))
    settle(leader)
    assert share(stage, "vision").held == Vector({"cpu": 2000})
    stage.put(a, statuses[a])
    stage.put(b, b"torn")
    settle(leader)
    assert share(stage, "vision").held == Vector({"cpu": 1000})
    finish(leader, "a")
    settle(leader)
    assert share(stage, "vision").held == Vector()
    stage.put(b, statuses[b])
    settle(leader)
    assert share(stage, "vision").held == Vector({"cpu": 2000})
    stage.check()


def settle(leader: StagedReplica) -> None:
    """Let the leader go on until its watch shows nothing new."""
    for _ in range(4):
        leader.sync()
        leader.run()


def follow(stage: Stage, model: Model) -> None:
    """Take in what has changed since, as a follower's watch brings it."""
    last, first = stage.model().revision, model.revision
    watch = stage.store.watch(stage.keys.prefix, after=first)
    for batch in watch if first < last else ():
        for event in batch.events:
            model.apply(to_change(stage.keys, event.key, event.item, batch.revision))
        model.advance_revision(batch.revision)
        if batch.revision >= last:
            break
    watch.close()


def test_a_share_of_nobody_is_charged_nothing_by_its_repair(stage: Stage) -> None:
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    damage(stage, leader, "nobody", held={"cpu": "3"}, running=7, at=1)
    assert share(stage, "nobody").used == Vector()
    assert share(stage, "nobody").held == Vector()


def test_a_deleted_share_is_charged_from_the_admission_of_what_runs(stage: Stage) -> None:
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.clock.move(7)
    stage.delete(stage.keys.share("default", "vision"))
    repair(stage, leader)
    assert used(stage, "vision") == 1000 * 7000


@pytest.mark.parametrize("ledger_too", [False, True])
def test_a_charge_from_the_far_future_is_a_damaged_value(stage: Stage, ledger_too: bool) -> None:
    """It is repaired, and no later step or charge takes its time."""
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    far = 99_999_999_999_999
    if ledger_too:
        ledger = stage.model().ledger("default")
        wild = ledger._replace(account=ledger.account._replace(at=far, day=far // DAY_MS))
        stage.put(stage.keys.ledger("default"), wild.encode(ledger.op))
    damage(stage, leader, "vision", held={"cpu": "1"}, running=1, used={"cpu": "5"}, at=far)
    assert share(stage, "vision").at < far
    stage.clock.move(3)
    assert used(stage, "vision") == (5 if ledger_too else 0) + 1000 * 3000, "else the ledger is right"
    finish(leader, "a")
    assert codec.decode_history(stage.status("a"))[-1].at == stage.clock.now()
    assert stage.model().ledger("default").account.day == round(stage.clock.now() * 1000) // DAY_MS
    stage.check()


def test_a_status_that_cannot_be_read_may_hold_in_any_pool(stage: Stage) -> None:
    """Its spec may be a later one: the one before was deleted, and another submitted under its name."""
    stage.pool("spare", capacity={"cpu": 4})
    stage.submit("a", owner="vision")
    leader = stage.leader()
    leader.run_to("a", Phase.RUNNING)
    stage.delete(stage.keys.task("a"))
    stage.put(stage.keys.state("a"), b"no status")
    stage.submit("a", owner="vision", pool="spare")
    model = stage.model()
    assert model.unread("default")
    assert model.unread("spare")
