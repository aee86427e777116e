"""Why a task is where it is, in one sentence with numbers, as `tally explain` prints it.

Pure: the model and the time come in, a sentence goes out. Nothing is decided here. The sentences state the
rules of `queue`, `planner` and `transitions`.
"""

from __future__ import annotations

from controller.core.model import quarantine
from controller.core.model.arrays import MemberName
from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.requests import ON_HOLD, RequestKind
from controller.core.model.resources import ZERO
from controller.core.model.task import Policy, Pool, Reserve, Status
from controller.core.planning.attestation import is_unreadable, unattested
from controller.views.absent import why_taken
from controller.views.capacities import explain_capacity
from controller.views.dependencies import Sees
from controller.views.explain_arrays import (
    explain_array,
    explain_ended,
    explain_folded,
    explain_member_ended,
)
from controller.views.explain_dependencies import (
    explain_gate,
    explain_kept,
    failed_after,
    never_again,
    retry_from,
)
from controller.views.explain_gangs import explain_gang, explain_gang_holding, explain_own_gang
from controller.views.explain_holding import because_of, explain_holding, step_of
from controller.views.explain_owner import explain_preempted, explain_sharing
from controller.views.maintenance import explain_window
from controller.views.pools import free_of
from controller.views.replicas import all_replicas
from controller.views.words import admitted_next, at, lacking, listed, span, words_of

__all__ = ["at", "explain", "span"]


def explain(model: Model, task_id: str, now: float, sees: Sees | None = None) -> str:
    """One sentence on why the task waits, runs or ended. `now` is seconds since the Unix epoch.

    `sees` tells of which tasks that ended before it the reader may know how; None: of all.
    """
    task = model.tasks.get(task_id)
    member = MemberName.parse(task_id)
    if member is not None and (
        told := explain_folded(model, task_id, now, lambda: explain(model, member.array, now, sees), sees)
    ):
        return f"{told}."
    if task is None or not task.exists:
        return f"There is no task {task_id}."
    if task.frozen == {quarantine.KIND}:
        why = words_of(model.quarantine[quarantine.KIND, (task_id,)])
        return (
            f"Tally leaves {task_id} alone, because it is quarantined after an error in Tally itself ({why}):"
            " report the error, and try again with `tally retry`, `tally cancel` or `tally audit --repair"
            f" --delete {quarantine.KIND}/{task_id}`."
        )
    if task.frozen:
        broken = {
            "/".join((kind, *names)): why
            for (kind, names), why in model.quarantine.items()
            if names[:1] == (task_id,)
        }
        records = "; ".join(f"{record}: {why}" for record, why in broken.items())
        return (
            f"Tally leaves {task_id} alone, because a record of it cannot be read ({records}): restore the"
            " value, or have it deleted (`tally audit` prints the command)."
        )
    if task.spec is None and task.status is None:
        return f"There is no task {task_id}, only a request for it, which the leader will remove."
    if task.state in FINISHED:
        sentence = _finished(model, task, now, sees)
    elif task.spec_error and task.status is None:
        sentence = f"The spec of {task_id} is invalid ({task.spec_error}), so the leader will mark it Failed"
    elif task.status is not None and task.status.is_holding:
        if task.status.reserved:
            sentence = explain_gang_holding(model, task, task.status, now)
        else:
            holding = explain_holding(task, task.status, now)
            sentence = f"{holding}{_poolless(model, task, task.status)}{explain_own_gang(task)}"
        sentence += _engineless(model, now, "no end is seen, and neither a deadline nor on_lost takes effect")
    elif task.array is not None:
        if task.array.is_gang:
            sentence = explain_gang(model, task, task.array, lambda: _waiting(model, task, now, sees))
        else:
            sentence = explain_array(task, task.array, lambda: _waiting(model, task, now, sees))
        sentence = f"{sentence}{explain_preempted(task)}{_engineless(model, now)}"
    else:
        sentence = f"{_waiting(model, task, now, sees)}{explain_preempted(task)}{_engineless(model, now)}"
    taken = why_taken(model, task_id, sees) if not task.member_of else ""
    besides = f"; {taken}" if taken else ""
    return f"{sentence}{_requests(task)}{_leaderless(model, task)}{besides}."


# -- finished


def _finished(model: Model, task: Task, now: float, sees: Sees | None) -> str:
    status = task.status
    if status is None or status.finished_at is None:
        return f"{task.id} is {task.state}"
    if told := explain_member_ended(task, now):
        return told
    sentence = f"{task.id} ended as {status.state} at {at(status.finished_at)}"
    if task.array is None or task.array.is_gang:
        ran = f"after {counted(status.attempt, 'attempt')}" if status.attempt else "and never ran"
        sentence += f", {ran}"
    if because := because_of(status):
        sentence += f": {because}"
    left = status.finished_at + task.retention_seconds - now
    kept = explain_kept(model, task)
    if left > 0:
        sentence += f"; it will be removed in {span(left)}{f', or later, {kept}' if kept else ''}"
    elif kept:
        sentence += f"; its retention has passed, and it is kept, {kept}"
    else:
        sentence += "; its retention has passed, and it is about to be removed"
    if status.state is State.SUCCEEDED:
        return sentence
    if never := never_again(model, task, sees):
        return f"{sentence}; {never}"
    first = retry_from(model, task, sees)
    again = first or (explain_ended(task.array) if task.array is not None else "")
    again = again or f"`tally retry {task.id}` runs it again"
    after = failed_after(model, task, sees) if not first else ""  # `first` goes down to all of them
    sentence = f"{sentence}, and {again}{'' if kept and left <= 0 else ' before that'}"
    return f"{sentence}; {after}" if after else sentence


# -- waiting


def _waiting(model: Model, task: Task, now: float, sees: Sees | None) -> str:
    """All that keeps it from being admitted; if nothing else does, its place in the queue."""
    status, kept = task.status, []
    if status is not None and task.on_hold:
        kept.append(_on_hold(task, status, now))
    if status is not None and status.retry_at is not None and status.retry_at > now:
        kept.append(_back_off(task, status, status.retry_at, now))
    if gate := explain_gate(model, task, sees):
        kept.append(gate if not kept else f"it {gate}")
    if closed := _closed(model, task.pool):
        kept.append(f"waits because {closed}" if not kept else closed)
    record = model.pools.get(task.pool)
    if record is not None and (window := explain_window(task.spec, record.pool, now)):
        kept.append(window if not kept else f"it {window}")
    if record is not None and (refused := unattested(model, task, record.pool)):
        waits = "waits" if is_unreadable(model, task) else "is about to be rejected"
        kept.insert(0, f"{waits} because {refused}")
    if kept or record is None:
        sentence = f"{task.id} {'; besides, '.join(kept)}"
    else:
        sentence = _in_queue(model, task, record.pool, now)
        if capacity := explain_capacity(model, task.pool, now):
            sentence = f"{sentence}; {capacity}"
    return f"{sentence}{_changed_priority(task)}"


def _on_hold(task: Task, status: Status, now: float) -> str:
    step = step_of(status, Event.NOTED, reason=ON_HOLD)
    since = f" since {at(step.at)} ({span(now - step.at)}): {words_of(step.message)}" if step else ""
    return f"is on hold{since}; `tally release {task.id}` puts it into the queue of pool {task.pool} again"


def _back_off(task: Task, status: Status, until: float, now: float) -> str:
    last = f"after {because_of(status)}" if because_of(status) else f"after attempt {status.attempt}"
    when = f"{at(until)}, in {span(until - now)}"
    return (
        f"its back-off {last} ends at {when}"
        if task.on_hold
        else f"is in back-off {last}; it is retried at {when}"
    )


def _closed(model: Model, pool: str) -> str:
    """Why a pool admits nothing; "" if it does."""
    record = model.pools.get(pool)
    if record is None:
        broken = model.quarantine.get(("pools", (pool,)))
        if broken:
            return f"the definition of its pool {pool} cannot be read ({words_of(broken)})"
        known = ", ".join(sorted(model.pools)) or "none"
        return f"its pool {pool} does not exist (existing pools: {known}): create it with `tally apply`"
    if model.pool_is_frozen(pool):
        broken = model.quarantine["ledgers", (pool,)]
        return (
            f"the ledger of its pool {pool} cannot be read ({words_of(broken)}): restore it, or have it"
            " rewritten (`tally audit` prints the command)"
        )
    if record.pool.paused:
        return f"its pool {pool} is paused: to resume it, run `tally resume {pool}`"
    return ""


def _changed_priority(task: Task) -> str:
    """What a user has made of its priority; "" if it is that of its spec."""
    if task.spec is None or task.priority == task.spec.priority:
        return ""
    return f"; its priority was set to {task.priority} (its spec says {task.spec.priority})"


def _in_queue(model: Model, task: Task, pool: Pool, now: float) -> str:
    asked = task.demand
    free = free_of(model, pool.name)
    if not asked.fits(pool.capacity):
        if pool.capacity_from is not None:
            return (
                f"{task.id} waits for more nodes: it asks for {lacking(asked, pool.capacity, 'in all')}"
                f" of pool {pool.name}"
            )
        return (
            f"{task.id} cannot run: it asks for {lacking(asked, pool.capacity, 'in all')} of pool"
            f" {pool.name}; raise the pool's capacity, or cancel the task"
        )
    if pool.sharing is not None:
        return explain_sharing(model, task, pool, free, now)
    ahead = model.eligible(pool.name, now).ahead_of(task.id, pool)
    crowd = f"{listed(ahead)} {'is' if len(ahead) == 1 else 'are'} ahead" if ahead else "no task is ahead"
    if not asked.fits(free):
        short = asked.exceeding(free)
        holding = (other.status for other in model.holding.values() if other.pool == pool.name)
        holders = sum(
            status.is_one_of_running and any(status.hold.get(name) for name in short)
            for status in holding
            if status is not None
        )
        return (
            f"{task.id} waits for resources: it asks for {lacking(asked, free, 'free')} of pool {pool.name} "
            f"({counted(holders, 'task')} there {'holds' if holders == 1 else 'hold'} the rest"
            f"{_imbalance(model, pool.name)}), and {crowd}"
        )
    if not ahead:
        return (
            f"{task.id} is next in pool {pool.name} and fits ({asked} of {free} free):"
            f" {admitted_next(now - task.queued_at)}"
        )
    blocker = _blocker(model, task, pool, now)
    return f"{task.id} would fit, but waits for its turn: {crowd} in pool {pool.name}{blocker}"


def _imbalance(model: Model, pool: str) -> str:
    """How the ledger of a pool differs from what its tasks hold; "" if it does not (I1)."""
    ledger, holds = model.ledger(pool).held, model.holds.get(pool, ZERO)
    if ledger == holds:
        return ""
    return f"; its ledger says that {ledger} is held, but they hold {holds}: run `tally audit`"


def _blocker(model: Model, task: Task, pool: Pool, now: float) -> str:
    """Why the tasks ahead keep a task that fits from running, by the rules of `Queue.admissible`."""
    asked = task.demand
    free = free_of(model, pool.name)
    passed, may_reserve = "", True
    for head_id, request in model.eligible(pool.name, now).heads_before(task.id, pool):
        if request.fits(free):
            free = free - request  # admitted first
            continue
        blocks = f"; the head, {head_id}, asks for {lacking(request, free, 'free')}"
        if pool.policy is Policy.STRICT:
            return f"{blocks}, and the pool's policy is strict: no task passes the head"
        if not may_reserve:
            continue
        may_reserve = pool.reserve is Reserve.ASKED
        waited = now - model.tasks[head_id].queued_at
        if waited < pool.backfill_seconds:
            rest = span(pool.backfill_seconds - waited)
            passed = passed or f"{blocks}, and smaller ones may pass it for another {rest}"
            continue
        free = free.without(request)
        if not asked.fits(free):
            return (
                f"{blocks}, and has waited {span(waited)}: after {span(pool.backfill_seconds)}, the"
                f" resources that it needs are reserved, and {task.id} asks for"
                f" {lacking(asked, free, 'beside them')}"
            )
    return passed or ", and the leader admits them first"


# -- what holds for all


def _requests(task: Task) -> str:
    array = task.array if task.array is not None and not task.array.is_gang else None
    is_told = array is not None and array.has_begun and task.state not in FINISHED
    kinds = sorted(kind for kind in task.requests if kind is RequestKind.CHANGE or not is_told)
    return f"; the request to {' and to '.join(kinds)} it waits for the leader" if kinds else ""


def _poolless(model: Model, task: Task, status: Status) -> str:
    """That it is not started: nobody knows how its pool wants it to run."""
    if status.state is not State.PENDING or status.stopping or task.pool in model.pools:
        return ""
    is_broken = ("pools", (task.pool,)) in model.quarantine
    why = "cannot be read" if is_broken else "is no longer defined"
    return f"; if it has not been started yet, it is not: pool {task.pool} {why}"


def _engineless(model: Model, now: float, so: str = "nothing is admitted") -> str:
    """What follows if the engine does not answer the leader, and why, as the leader registered it."""
    for replica in all_replicas(model):
        silence, told_at = replica.told.engine_silence, replica.told.at
        if replica.leads and silence:
            ago = f", as the leader reported {span(now - told_at)} ago" if told_at else ""
            return f"; {so}, because the engine does not answer ({words_of(silence)}{ago})"
    return ""


def _leaderless(model: Model, task: Task) -> str:
    if model.leader is not None or (task.state in FINISHED and not task.requests):
        return ""
    return "; no replica leads, and nothing changes until one does (see `tally get replicas`)"
