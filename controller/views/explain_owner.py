"""Why a task waits in a pool with `sharing`: its owner's limits, its turn, and what is being freed for it.

The sentences state the rules of `fair_order` and `preemption`.
"""

from __future__ import annotations

from controller.core.model.codec import decode_history
from controller.core.model.fair_order import Turn
from controller.core.model.lifecycle import Event, State
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.resources import Vector
from controller.core.model.sharing import Sharing, SharingPriority
from controller.core.model.task import Pool
from controller.core.planning.transitions import PREEMPTED
from controller.errors import CorruptValue
from controller.views.pools import OwnerFacts, claims_of, owner_facts, sharing_facts
from controller.views.turns import turns
from controller.views.words import NAMED, admitted_next, at, lacking, listed, share_text, span, words_of


def explain_sharing(model: Model, task: Task, pool: Pool, free: Vector, now: float) -> str:
    """Why a task waits that the pool's capacity could hold. `free` is what the pool has left."""
    assert pool.sharing is not None
    owner = owner_facts(model, pool, task.owner, now)
    if owner.broken:
        return (
            f"{task.id} waits because the share of its owner {owner.owner} of pool {pool.name} cannot be read"
            f" ({words_of(owner.broken)}): restore it, or have it rewritten (`tally audit` prints the"
            " command)"
        )
    if model.is_rebuilding(pool.name):
        return (
            f"{task.id} waits because the shares of pool {pool.name} are being rebuilt: the leader admits and"
            " releases nothing there until they are whole"
        )
    return _limited(task, pool, owner) or _in_turn(model, task, pool, pool.sharing, owner, free, now)


def explain_preempted(task: Task) -> str:
    """By whom and when a task that waits again was stopped; "" if its last attempt was not preempted."""
    status = task.status
    if status is None or status.state is not State.WAITING_RETRY or status.reason != PREEMPTED:
        return ""
    try:
        steps = decode_history(status)
    except CorruptValue:
        steps = []
    when = next((f" at {at(step.at)}" for step in reversed(steps) if step.event == Event.PREEMPTED), "")
    return f"; its attempt {status.attempt} was preempted{when}: {words_of(status.message)}"


# -- limits


def _limited(task: Task, pool: Pool, owner: OwnerFacts) -> str:
    """Which limit of its owner keeps the task waiting; "" if none does."""
    policy, asked = owner.policy, task.demand
    of_owner = f"owner {owner.owner} in pool {pool.name}"
    alone = [name for name in policy.limit.exceeded_by(asked) if name in asked]
    if alone or policy.max_running == 0:
        most = _each(asked, policy.limit, alone, "at most") if alone else "max_running is 0"
        return (
            f"{task.id} cannot run: it is above the limit of {of_owner} ({most}); raise the limit, or cancel"
            " the task"
        )
    if policy.max_running is not None and owner.running >= policy.max_running:
        return (
            f"{task.id} waits because {of_owner} runs {counted(owner.running, 'task')}, of at most"
            f" {policy.max_running} (max_running)"
        )
    over = [name for name in policy.limit.exceeded_by(owner.held + asked) if name in asked]
    if not over:
        return ""
    limits = ", ".join(
        f"{_one(asked, name)} asked, {_one(owner.held, name)} held, {_one(policy.limit, name)} at most"
        for name in over
    )
    return f"{task.id} waits because {of_owner} would be above its limit: {limits}"


def _one(amounts: Vector, name: str) -> str:
    return str(Vector({name: amounts.get(name)})) if amounts.get(name) else f"{name} 0"


def _each(asked: Vector, limit: Vector, names: list[str], what: str) -> str:
    return ", ".join(f"{_one(asked, name)} asked, {_one(limit, name)} {what}" for name in names)


# -- its turn


def _in_turn(
    model: Model, task: Task, pool: Pool, sharing: Sharing, owner: OwnerFacts, free: Vector, now: float
) -> str:
    before, firsts = _before(model, task, pool, now)
    own = [
        place.task_id
        for place, request in model.eligible(pool.name, now).of_owner(owner.owner)
        if request.fits(pool.capacity)
    ]
    is_first = firsts[-1:] == [task.id]  # what is ahead of it is passed over
    own = own[: own.index(task.id)] if task.id in own and not is_first else []
    asked = task.demand
    parts = [_order(sharing, owner, before), _ahead(own), _guarantee(owner)]
    parts += _claims(model, task, pool, own, {turn.owner for turn in before}, now)
    parts.append(_reserved(model, pool, firsts, task, free, now))
    told = "; ".join(part for part in parts if part)
    if not asked.fits(free):
        return (
            f"{task.id} waits for resources: it asks for {lacking(asked, free, 'free')} of pool {pool.name};"
            f" {told}"
        )
    if before or own:
        return f"{task.id} would fit, but waits for its turn in pool {pool.name}: {told}"
    return (
        f"{task.id} is next in pool {pool.name} and fits ({asked} of {free} free):"
        f" {admitted_next(now - task.queued_at)}; {told}"
    )


def _before(model: Model, task: Task, pool: Pool, now: float) -> tuple[list[Turn], list[str]]:
    """The owners whose turn comes first, and their first tasks. If it is the turn of the task's own owner
    afterwards, that owner's first task comes last.
    """
    before, firsts = list[Turn](), list[str]()
    for turn, (place, _) in turns(model, pool, now):
        firsts.append(place.task_id)
        if turn.owner == task.owner:
            break
        before.append(turn)
    return before, firsts


def _order(sharing: Sharing, owner: OwnerFacts, before: list[Turn]) -> str:
    mine = f"its owner {owner.owner} (share {share_text(owner.share)})"
    across = sharing.priority is SharingPriority.ACROSS_OWNERS
    by = "priorities, guarantees and shares" if across else "guarantees and shares"
    if not before:
        return f"{mine} comes first by {by}"
    names = ", ".join(
        f"{turn.owner} {share_text(turn.share)}{'' if turn.beyond else ', within its guarantee'}"
        for turn in before[:NAMED]
    )
    more = f" and {len(before) - NAMED} more" if len(before) > NAMED else ""
    return f"{mine} comes after {counted(len(before), 'owner')} ({names}{more}) by {by}"


def _ahead(own: list[str]) -> str:
    """The tasks ahead of the same owner."""
    return f"{listed(own)} of the same owner {'is' if len(own) == 1 else 'are'} ahead" if own else ""


def _guarantee(owner: OwnerFacts) -> str:
    if not owner.guarantee:
        return ""
    left = owner.guarantee_left
    return (
        f"of its guarantee of {owner.guarantee}, {left} {'is' if len(left) == 1 else 'are'} left"
        if left
        else f"its guarantee of {owner.guarantee} is used up"
    )


def _reserved(model: Model, pool: Pool, firsts: list[str], task: Task, free: Vector, now: float) -> str:
    """The first tasks that do not fit, and for which what is free is set aside."""
    found = [
        each
        for each in firsts
        if each != task.id
        and not model.tasks[each].demand.fits(free)
        and now - model.tasks[each].queued_at >= pool.backfill_seconds
    ]
    waited = span(pool.backfill_seconds)
    return f"what is free is set aside for {listed(found)} first, after {waited} of waiting" if found else ""


# -- preemption


def _claims(model: Model, task: Task, pool: Pool, own: list[str], before: set[str], now: float) -> list[str]:
    """What is being freed for the task, or for tasks before it."""
    parts, others = [], []
    for facts in claims_of(model, pool.name):
        other = model.tasks.get(facts.task)
        if facts.task == task.id:
            claim = facts.claim
            if claim is None:
                parts.append(f"its claim cannot be read, and reserves nothing ({words_of(facts.broken)})")
                continue
            still = f"{facts.stopping} still {'holds' if facts.stopping == 1 else 'hold'} resources"
            parts.append(
                f"{span(now - claim.at / 1000)} ago, {counted(len(claim.victims), 'attempt')} began to be"
                f" stopped for it by {claim.kind} (it asked for {claim.asked}, and is short of"
                f" {claim.short}); {still}"
            )
        elif other is not None and (facts.task in own or other.owner in before):
            others.append(facts.task)
    if others:
        parts.append(f"what comes free is set aside for {listed(others)} first")
    rules = pool.preemption
    if rules is not None and not parts and sharing_facts(model, pool.name, now).stopped >= rules.per_minute:
        parts.append(f"no more attempts are stopped in this minute (per_minute is {rules.per_minute})")
    return parts
