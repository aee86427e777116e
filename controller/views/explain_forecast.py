"""What is to come, in sentences, as `tally explain --eta`, `tally plan` and `tally what-if` print it."""

from __future__ import annotations

from controller.core.forecast.ahead import Kept
from controller.core.forecast.durations import FEWEST, NAME_LABEL, Basis
from controller.core.model.printable import counted
from controller.views.ahead import ChangedView, ComparedView
from controller.views.forecast import ComingView, ErrorView, ForecastView
from controller.views.words import at, listed, span

_OF_ITS = {
    Basis.ARRAY: "of its array",
    Basis.NAME: f"of the same {NAME_LABEL}",
    Basis.COMMAND: "of the same command",
    Basis.POOL: "of its pool",
}


def explain_coming(view: ForecastView, task_id: str) -> str:
    """When the task is expected to begin and to end, and what that rests on, in a few sentences."""
    coming = view.tasks.get(task_id)
    if coming is None:
        if array := view.told_as(task_id):
            return f"Of its array: {explain_coming(view, array)}"
        return f"Nothing is to come of {task_id}: it neither waits nor runs."
    parts = [_begins(view, coming) if not coming.has_begun else "", _members(view, coming)]
    if coming.begins_at is None and coming.ends_as and not coming.has_begun:
        return " ".join(part for part in parts if part)
    if coming.kept in ("", Kept.TASKS) or coming.has_begun:
        parts.append(_ends(view, coming))
    if coming.before and coming.begins_at is not None and not coming.has_begun:
        number = sum(coming.before.values())
        by = ", ".join(f"{count:,} {_as_others(basis)}" for basis, count in coming.before.items())
        are = "is" if number == 1 else "are"
        parts.append(
            f"Before it begins, {counted(number, 'attempt')} of pool {coming.pool} {are} to end: {by}."
        )
    if coming.has_begun:
        is_told = coming.ends_at is not None or coming.last_at is not None
    else:
        is_told = coming.begins_at is not None or coming.kept == ""
    if is_told:
        error = view.errors.get(coming.by, view.error) if coming.by != Basis.DEADLINE else view.error
        known = error if any(each.runs for each in view.tasks.values()) else None
        parts.append(explain_error(known, None if coming.has_begun else view.starts, ends=coming.has_begun))
    return " ".join(part for part in parts if part)


def explain_error(error: ErrorView | None, starts: ErrorView | None = None, *, ends: bool = False) -> str:
    """How far off such times have been, as far as that is known; `starts`: beginnings that were told before.

    `ends`: only an end is told.
    """
    durations = "How far off such times are is not known yet"
    if error is not None:
        of = f", of {counted(error.of, 'run')}" if error.of else ""
        durations = f"Durations were off by {error.median:.0%} (median; {error.p90:.0%} in one of ten){of}"
    if starts is None:
        return f"{durations}{'' if ends or error is None else '; beginnings may be off by more'}."
    of = f", of {counted(starts.of, 'task')}" if starts.of else ""
    return (
        f"{durations}. Beginnings that were told before were off by {starts.median:.0%} of the wait (median;"
        f" {starts.p90:.0%} in one of ten){of}."
    )


def explain_compared(view: ComparedView) -> str:
    """What it does to other tasks that wait, in a few sentences."""
    waiting = [each for each in view.changed if not each.has_begun]
    parts = [
        _moved(view.later, "later", [each for each in waiting if (each.later_seconds or 0) > 0]),
        _moved(view.sooner, "sooner", [each for each in waiting if (each.later_seconds or 0) < 0]),
    ]
    if view.never:
        never = listed([_what_begins(each) for each in view.changed if each.never], count=view.never)
        parts.append(f"{never} {'does' if view.never == 1 else 'do'} not begin any more")
    told = "; ".join(part for part in parts if part)
    if told:
        told = f"Of those that wait, {told}."
    else:
        what = "waits begins sooner or later" if view.differing else "is stored begins or ends otherwise"
        told = f"No task that {what} by more than a minute and 1 % of the time ahead."
    waits = {each.pool for each in view.waits if each.begin_then < each.waiting}
    endless = [name for pool in sorted(waits) for name in view.endless.get(pool, [])]
    if endless:
        told += f" Nothing tells how long {listed(endless)} will run."
    return told if view.is_whole else f"{told} No further than {at(view.until)} was looked ahead."


def _moved(number: int, word: str, known: list[ChangedView]) -> str:
    if not number:
        return ""
    most, by = max(known, key=lambda each: abs(each.later_seconds or 0), default=None), ""
    if most is not None:
        by = f", {'' if number == 1 else 'the most '}{most.id}: by {span(abs(most.later_seconds or 0))}"
    return f"{counted(number, 'task')} {'begins' if number == 1 else 'begin'} {word}{by}"


def _what_begins(each: ChangedView) -> str:
    """The task; of an array that has begun, what is left of it."""
    return f"the last member of {each.id}" if each.has_begun else each.id


def rests_on(coming: ComingView) -> str:
    """What its own duration rests on: `12 runs of its array`, `its run deadline`; "" for nothing."""
    if not coming.by:
        return ""
    if coming.by == Basis.DEADLINE:
        return "its run deadline"
    return f"{counted(coming.runs, 'run')} {_OF_ITS[Basis(coming.by)]}"


def _begins(view: ForecastView, coming: ComingView) -> str:
    name, after = coming.id, f", after {_after(coming)}" if coming.after else ""
    if coming.begins_at is not None:
        what = f"The first member of {name}" if coming.left else name
        latest = " at the latest" if Basis.DEADLINE in coming.before else ""
        return f"{what} is expected to begin at {_when(view, coming.begins_at)}{latest}{after}."
    if coming.ends_as and coming.ends_at is not None:
        return (
            f"{name} is not expected to begin: it is expected to end as {coming.ends_as} at"
            f" {_when(view, coming.ends_at)}{after}."
        )
    return _never(view, coming, f"{name} begins", f"{name} does not begin")


def _members(view: ForecastView, coming: ComingView) -> str:
    """Of an array, when the last one begins of the members that have not begun."""
    if not coming.left or (coming.begins_at is None and not coming.has_begun):
        return ""
    have = "has" if coming.left == 1 else "have"
    yet = f"Of {coming.id}, {counted(coming.left, 'member')} {have} not begun"
    if coming.last_at is not None:
        last = f"is expected to begin at {_when(view, coming.last_at)}"
        return f"{yet}; the last one {last}." if coming.has_begun else f"Its last member {last}."
    told = _never(view, coming, f"the last of {coming.id} begins", "the last of them does not begin")
    return f"{yet}. {told}" if coming.has_begun else told


def _never(view: ForecastView, coming: ComingView, begins: str, does_not: str) -> str:
    """Why no beginning is told."""
    until, further = at(view.until), "" if view.is_whole else "; no further was looked ahead"
    what = does_not if does_not.startswith(coming.id) else does_not[0].upper() + does_not[1:]
    match coming.kept:
        case Kept.HOLD:
            return f"{what} as long as {coming.id} is on hold."
        case Kept.POOL if not coming.pool:
            return f"{what}: its records cannot be read."
        case Kept.POOL:
            return f"{what} as long as pool {coming.pool} admits nothing."
        case Kept.SIZE:
            return f"{what}: {coming.id} asks for more than pool {coming.pool} has."
        case Kept.TASKS:
            return (
                f"When {begins} is not known: {coming.id} waits for {_after(coming) or 'others'}, and not all"
                f" of that is expected to end before {until}{further}."
            )
    endless = view.endless.get(coming.pool, [])
    if endless:
        return (
            f"When {begins} is not known: nothing tells how long {listed(endless)} of pool {coming.pool}"
            f" will run. A run deadline would, or {FEWEST[Basis.NAME]} runs with the same label {NAME_LABEL}"
            " that took as long."
        )
    if not view.is_whole:
        return f"{what} before {until}, as far as is expected; no further was looked ahead."
    return f"As things stand, {does_not} before {until}."


def _as_others(basis: str) -> str:
    """What the durations of other attempts rest on."""
    return "by their run deadlines" if basis == Basis.DEADLINE else f"as others {_OF_ITS[Basis(basis)]}"


def _when(view: ForecastView, time: float) -> str:
    return f"{at(time)}, in {span(time - view.now)}"


def _after(coming: ComingView) -> str:
    rest = coming.waits_for - len(coming.after)
    return ", ".join(coming.after) + (f" and {rest} more" if rest > 0 else "")


def _ends(view: ForecastView, coming: ComingView) -> str:
    if not coming.by:
        return (
            f"Nothing tells how long {coming.id} runs: none of its kind has succeeded, and it has no run"
            " deadline."
        )
    if coming.ends_at is None:
        if not any(coming.id in names for names in view.endless.values()):
            return ""
        longest = (
            f"the {counted(coming.runs, 'run')} {_OF_ITS[Basis(coming.by)]}" if coming.runs else "expected"
        )
        return f"It has run longer than {longest}, so nothing tells when it ends."
    rests = (
        "by its run deadline at the latest"
        if coming.by == Basis.DEADLINE
        else f"as {counted(coming.runs, 'run')} {_OF_ITS[Basis(coming.by)]} did"
    )
    return f"It is expected to end at {_when(view, coming.ends_at)}, {rests}."
