"""Invariant I7, as far as one revision shows it: terms never go back, and none is above the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.records import Task, decode_or_empty
from controller.core.promise.finding import Finding, Mender


class Written(NamedTuple):
    """Which term wrote a task's status, and when; they sort in the order of writing."""

    mod: int
    term: int
    task_id: str


def written_by(task: Task) -> Written | None:
    """Which term wrote the task's status; None when it has none that can be read."""
    if task.status is None or "states" in task.frozen:
        return None
    return Written(task.status_mod, task.status.term, task.id)


def is_number(name: str) -> bool:
    """Whether a term's key names a number, and none so long that int() refuses it."""
    return name.isascii() and name.isdigit() and len(name) < 20


def check_terms(model: Model, written: Iterable[Written]) -> list[Finding]:
    """I7: no recorded term is above the epoch, and in the order of writes (mod revision) terms never go
    back.
    """
    findings: list[Finding] = []
    epoch = current_epoch(model)
    written = sorted(written)
    for one, highest in out_of_order(written):
        what = f"was written by term {one.term} after term {highest} had begun to write"
        findings.append(term_finding(f"task/{one.task_id}", what, one.mod))
    named = [(int(name), name, change.mod) for name, change in model.terms.items() if is_number(name)]
    if epoch is None:
        # no term is 0: somebody wrote that by hand
        if any(one.term for one in written) or named or model.epoch is not None:
            what = "is missing" if model.epoch is None else "names no number"
            findings.append(_epoch_finding(what, model.epoch.mod if model.epoch is not None else 0))
        return findings
    led = decode_or_empty(model.leader).get("epoch")
    if isinstance(led, int) and led > epoch:
        findings.append(
            _epoch_finding(
                f"is {epoch}, but the leader was elected as number {led}",
                model.epoch.mod if model.epoch else 0,
            )
        )
    for one in written:
        if one.term > epoch:
            what = f"names term {one.term}, but the epoch is only {epoch}"
            findings.append(term_finding(f"task/{one.task_id}", what, one.mod))
    for term, name, mod in named:
        if term > epoch:
            finding = term_finding(f"key/terms/{name}", f"is above the epoch, which is only {epoch}", mod)
            findings.append(finding)
    return findings


def out_of_order(written: list[Written]) -> Iterator[tuple[Written, int]]:
    """Of sorted writes those by a term below one that had written before, with the highest such term."""
    highest = 0
    for one in written:
        if one.term < highest:
            yield one, highest
        highest = max(highest, one.term)


def current_epoch(model: Model) -> int | None:
    """The number of elections so far, None when it is not known."""
    epoch = decode_or_empty(model.epoch).get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 10**15 else None


def term_finding(subject: str, what: str, since: int) -> Finding:
    """Of a term that cannot be: on a task's status, or in a record of its own."""
    of_a_task = subject.startswith("task/")
    return Finding(
        invariant="I7",
        subject=subject,
        what=what,
        since_revision=since,
        likely_cause="keys written around the fence: by hand, or by a restore that put them one by one",
        repair=(
            "the leader writes the status anew in its own term, and notes the terms that it found"
            if of_a_task
            else "the leader deletes the record: there was no such term"
        ),
        mender=Mender.REPAIR,
    )


def _epoch_finding(what: str, since: int) -> Finding:
    return Finding(
        invariant="I7",
        subject="key/epoch",
        what=what,
        since_revision=since,
        likely_cause="the key was deleted or overwritten by hand",
        repair=(
            "the leader writes the number of its own election; without a leader: put one above every recorded"
            " term"
        ),
        mender=Mender.REPAIR,
    )
