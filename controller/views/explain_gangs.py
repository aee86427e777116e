"""What `tally explain` says of gangs, and of their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from controller.core.model.array_records import Array
from controller.core.model.demand import demand
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.model.resources import ZERO
from controller.core.model.task import Status
from controller.views.explain_holding import because_of, stopped_in, why_stopped
from controller.views.gangs import GangFacts, gang_facts, role_name
from controller.views.words import NAMED, at, listed, span


def explain_gang(model: Model, task: Task, array: Array, waits: Callable[[], str]) -> str:
    """Why a gang waits; `waits` says why it is not admitted, as for any task."""
    record = model.pools.get(task.pool)
    asked = demand(task.spec, record.pool if record is not None else None) if task.spec is not None else ZERO
    sentence = f"{task.id} is a gang of {_members(task, array.size)}, which begin together or not at all"
    sentence += f", and ask for {asked} in all"
    if left := len(array.members) + len(array.hidden):
        return f"{sentence}; it waits until {counted(left, 'member')} of an earlier attempt have ended"
    return f"{sentence}: {waits()}"


def explain_gang_holding(model: Model, task: Task, status: Status, now: float) -> str:
    """How far a gang has come that is admitted: which of its members do not run, or still have to end."""
    facts = gang_facts(status, model.arrays.of(task.id))
    attempt = f"attempt {status.attempt} of {task.id}"
    holds = f"holds {facts.held} of pool {status.pool}"
    if status.stopping:
        return f"{attempt} is being stopped because {why_stopped(status)}{_left(facts)}; it {holds}"
    deadlines = task.spec.deadlines if task.spec is not None else None
    if status.state is State.RUNNING:
        since = status.started_at or status.admitted_at or now
        limit = deadlines.run_seconds if deadlines is not None else None
        ends = stopped_in(since, limit, now, unless="it has not ended")
        ended = f"{facts.ended:,} of {counted(facts.size, 'member')} {_have(facts.ended)} ended"
        running = f"{attempt} has been running since {at(since)} ({span(now - since)})"
        return f"{running}: {ended}, and it {holds}{ends}"
    since = status.admitted_at or now
    limit = deadlines.start_seconds if deadlines is not None else None
    ends = stopped_in(since, limit, now, unless="not all run")
    return f"{attempt} was admitted {span(now - since)} ago and {holds}: {_started(task, facts)}{ends}"


def explain_own_gang(task: Task) -> str:
    """Of a member under way: which gang it is of, to end a sentence; "" for any other task."""
    status, gang = task.status, task.source
    if status is None or not status.of_gang or gang is None:
        return ""
    name = role_name(gang.spec, status.index)
    role = f" ({name})" if name else ""
    return f"; it is member {status.index} of the gang {gang.id}{role}, which is {gang.state}"


def _members(task: Task, size: int) -> str:
    """How many there are, and of which roles."""
    roles = task.spec.array.roles if task.spec is not None and task.spec.array is not None else ()
    told = ", ".join(f"{role.size:,} {role.name}" for role in roles)
    return f"{counted(size, 'member')}{f' ({told})' if told else ''}"


def _started(task: Task, facts: GangFacts) -> str:
    """How many run, how many do not and what the engine says of these, and how many have not begun."""
    running = len(facts.running)
    told = [f"{running:,} of {_members(task, facts.size)} {'runs' if running == 1 else 'run'}"]
    if facts.ended:
        told.append(f"{facts.ended:,} {_have(facts.ended)} ended")
    if facts.starting:
        number = len(facts.starting)
        told.append(f"{number:,} {_have(number)} begun and {_do(number)} not run yet{_words(facts.starting)}")
    if facts.unreadable:
        told.append(f"{len(facts.unreadable):,} cannot be read")
    if facts.not_begun:
        told.append(f"{facts.not_begun:,} {_have(facts.not_begun)} not begun")
    return ", ".join(told)


def _words(starting: Sequence[tuple[str, Status]]) -> str:
    """Which these are, by what the engine says of them."""
    by_words: dict[str, list[str]] = {}
    for name, status in starting:
        by_words.setdefault(because_of(status), []).append(name)
    told = []
    for words in sorted(by_words, key=lambda words: (not words, by_words[words]))[:NAMED]:
        names = by_words[words]
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        who = f"{', '.join(names[:NAMED])}{more}"
        told.append(f"{who}: the engine says: {words}" if words else who)
    return f" ({'; '.join(told)})"


def _left(facts: GangFacts) -> str:
    """How many of its members have still to prove their end, and what to do about those that are lost."""
    left = len(facts.stopping) + len(facts.unreadable)
    if not left:
        return "; none of its members is under way any more, and the leader's next pass ends the attempt"
    who = f" ({', '.join(facts.stopping[:NAMED])}{', …' if left > NAMED else ''})" if facts.stopping else ""
    told = f"; {left:,} of {counted(facts.size, 'member')} {_have(left)} still to prove {_its(left)} end{who}"
    if facts.unreadable:
        told += (
            f"; the status of {counted(len(facts.unreadable), 'member')} cannot be read: see `tally audit`"
        )
    if facts.lost:
        are = "is" if len(facts.lost) == 1 else "are"
        told += (
            f"; {listed(facts.lost, 'member')} {are} lost: if you know that"
            f" one no longer runs, confirm it, as with `tally confirm-stopped {facts.lost[0]}`"
        )
    return told


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _do(number: int) -> str:
    return "does" if number == 1 else "do"


def _its(number: int) -> str:
    return "its" if number == 1 else "their"
