"""Invariant I7, as far as one revision shows it: epochs never go back, and none is above the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.records import Task, decode_or_empty
from controller.core.promise.finding import Finding, Mender


class Written(NamedTuple):
    """When (mod) and in which epoch a task's status was written. Values sort in the order of writing."""

    mod: int
    epoch: int
    task_id: str


def written_by(task: Task) -> Written | None:
    """The epoch in which the task's status was written; None if the task has no readable status."""
    if task.status is None or "states" in task.frozen:
        return None
    return Written(task.status_mod, task.status.epoch, task.id)


def is_number(name: str) -> bool:
    """Whether a term's key names a number, and one short enough for int()."""
    return name.isascii() and name.isdigit() and len(name) < 20


def check_terms(model: Model, written: Iterable[Written]) -> list[Finding]:
    """I7: no record names an epoch above the last one, and epochs never go back in the order of writes.

    The order of writes is that of mod revisions.
    """
    findings: list[Finding] = []
    epoch = current_epoch(model)
    written = sorted(written)
    for one, highest in out_of_order(written, epoch):
        what = f"was written in epoch {one.epoch} after epoch {highest} had begun to write"
        findings.append(term_finding(f"task/{one.task_id}", what, one.mod))
    named = [(int(name), name, change.mod) for name, change in model.terms.items() if is_number(name)]
    if epoch is None:
        # 0 is not an epoch: someone wrote it by hand
        if any(one.epoch for one in written) or named or model.epoch is not None:
            what = "is missing" if model.epoch is None else "does not contain a number"
            findings.append(_epoch_finding(what, model.epoch.mod if model.epoch is not None else 0))
        return findings
    led = decode_or_empty(model.leader).get("epoch")
    if isinstance(led, int) and led > epoch:
        findings.append(
            _epoch_finding(
                f"is {epoch}, but the leader was elected in epoch {led}",
                model.epoch.mod if model.epoch else 0,
            )
        )
    for one in written:
        if one.epoch > epoch:
            what = f"names epoch {one.epoch}, but the last one is {epoch}"
            findings.append(term_finding(f"task/{one.task_id}", what, one.mod))
    for number, name, mod in named:
        if number > epoch:
            finding = term_finding(f"key/terms/{name}", f"is above the last epoch, which is {epoch}", mod)
            findings.append(finding)
    return findings


def out_of_order(written: list[Written], last: int | None) -> Iterator[tuple[Written, int]]:
    """Of sorted writes, those in an epoch below an earlier writer's, with the highest such epoch.

    An epoch above `last` never existed, so a later write in a lower one is not late.
    """
    highest = 0
    for one in written:
        if last is not None and one.epoch > last:
            continue
        if one.epoch < highest:
            yield one, highest
        highest = max(highest, one.epoch)


def current_epoch(model: Model) -> int | None:
    """The number of elections so far; None if it is not known."""
    epoch = decode_or_empty(model.epoch).get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 10**15 else None


def term_finding(subject: str, what: str, since: int) -> Finding:
    """A finding about an impossible term: on a task's status, or in a record of its own."""
    of_a_task = subject.startswith("task/")
    return Finding(
        invariant="I7",
        subject=subject,
        what=what,
        since_revision=since,
        likely_cause=(
            "keys were written without the fence: by hand, or by a restore that wrote them one by one"
        ),
        repair=(
            "the leader rewrites the status in its own epoch, and records the epochs that it found"
            if of_a_task
            else "the leader deletes the record: that epoch never existed"
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
            "the leader writes its own epoch; if no replica leads, write a number above every recorded epoch"
        ),
        mender=Mender.REPAIR,
    )
