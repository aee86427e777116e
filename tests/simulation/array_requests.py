"""The judge of what is asked of arrays in the simulation, and of the answers (I15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from controller.core.model import codec
from controller.core.model.arrays import MemberName, Ranges
from controller.core.model.blocks import KIND
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Status, Step
from controller.errors import CorruptValue
from controller.store.base import KeyEvent

if TYPE_CHECKING:
    from tests.simulation.arrays import ArrayJudge
    from tests.simulation.oracle import Oracle

ENDED = ("succeeded", "failed", "cancelled")


def _is_retried(status: Status | None) -> bool:
    """Whether its last step is a retry, as somebody may have asked for one of a member alone."""
    return status is not None and codec.decode_history(status)[-1].event == "retry-requested"


class _Asked(NamedTuple):
    """A request on an array: when it was put, and when it was gone."""

    request: Request
    put: int
    gone: int | None


class ArrayRequests:
    """It knows when each request was put, and when it was gone."""

    def __init__(self, oracle: Oracle, arrays: ArrayJudge) -> None:
        self._oracle = oracle
        self._arrays = arrays
        self._asked: dict[str, list[_Asked]] = {}

    def on_request(self, event: KeyEvent) -> None:
        """Note what is asked of arrays."""
        name, kind = event.key.rsplit("/", 2)[1:]
        rows = self._asked.setdefault(name, [])
        if (rows and rows[-1].gone is None) or any(row.gone is None for row in rows):
            rows[:] = [
                row._replace(gone=event.mod) if row.gone is None and row.request.kind == kind else row
                for row in rows
            ]
        if event.item is not None:
            try:
                rows.append(_Asked(codec.decode_request(kind, event.item.value), event.mod, None))
            except CorruptValue:
                return

    def covering(self, name: str, kind: RequestKind, index: int, known: int) -> list[Request]:
        """What was asked of this member, as a writer may have seen it that knew so much."""
        return [
            row.request
            for row in self._asked.get(name, ())
            if row.request.kind is kind
            and (row.gone is None or row.gone > known)
            and index in Ranges.parse(row.request.members)
        ]

    def asked(self, name: str, kind: RequestKind, known: int) -> bool:
        """Whether such a request on the array waits, and a writer knew of it that knew so much."""
        return any(
            row.gone is None and row.put <= known and row.request.kind is kind
            for row in self._asked.get(name, ())
        )

    def inherits(self, task_id: str, step: Step) -> bool:
        """Whether this step of a member carries out a cancel of its array."""
        member = MemberName.parse(task_id)
        if member is None:
            return False
        words = step.message.replace(":", "").split()
        if "fail_fast" in words:
            return True
        if "by its gang" in step.message:
            gang = self._arrays.gangs.status(member.array)
            return gang is None or bool(gang.stopping) or gang.attempt != step.attempt
        rows = self._asked.get(member.array, ())
        return any(
            row.request.by in words and member.index in Ranges.parse(row.request.members)
            for row in rows
            if row.request.kind is RequestKind.CANCEL
        )

    def wrong_answer(self, name: str, step: Step, new: Status, request: Request) -> str:
        """What is wrong with a request on an array that was consumed: it is not carried out yet."""
        spec = self._arrays.spec(name)
        if spec is None or spec.array is None or spec.array.gang or self._oracle.specs_put.get(name) != 1:
            return ""
        fates, members = self._arrays.fates(name, spec.array.size), self._arrays.members(name)
        known, _ = self._oracle.sent[new.op]
        for index, fate in enumerate(fates or ()):
            member = str(MemberName(name, index))
            item, status = self._oracle.etcd.get(self._oracle.keys.state(member)), members.get(index)
            at = item.mod if item is not None else 0  # it may end just before its retry is answered
            if request.kind is RequestKind.CANCEL and not _is_retried(status):
                at = self._oracle.mended_at(member)  # and never begins just before its cancel is
            is_unsure = item is not None and (status is None or at > known)
            if index not in Ranges.parse(request.members) or is_unsure or self._is_odd(member):
                continue
            state = status.state.lower() if status is not None else str(fate.outcome)
            is_over = state in ENDED or (
                status is not None and (status.cancelling or bool(status.stopping and status.exit_code == 0))
            )
            is_again = state == "failed" or (state == "cancelled" and not request.only_failed)
            wrong = not is_over if step.event == "noted" and request.kind is RequestKind.CANCEL else False
            if wrong or (request.kind is RequestKind.RETRY and is_again):
                return f"{request.kind} was consumed, and member {index} is {state}"
        return ""

    def wrong_refusal(self, name: str, old: Status, step: Step) -> str:
        """What is wrong with a request on an array that was refused."""
        spec = self._arrays.spec(name)
        if spec is None or spec.array is None or spec.array.gang or self._oracle.specs_put.get(name) != 1:
            return ""
        if old.state not in ("Failed", "Cancelled") or not step.message.startswith("retry"):
            return ""
        prefix, names = f"{self._oracle.keys.prefix}{KIND}/{name}/", range(spec.array.size)
        if not any(key.startswith(prefix) for key in self._oracle.values):
            return ""  # it has never begun
        for index, fate in zip(names, self._arrays.fates(name, spec.array.size) or (), strict=False):
            state = self._oracle.keys.state(str(MemberName(name, index)))
            if not fate.has_ended and self._oracle.etcd.get(state) is None:
                return f"retry was refused, and member {index} waits"
        return ""

    def _is_odd(self, member: str) -> bool:
        """Whether there may be more to it: it is set aside, or something is asked of it alone."""
        prefix = self._oracle.keys.prefix
        odd = (f"{prefix}quarantined/{member}", f"{prefix}requests/{member}/")
        return any(key.startswith(odd) for key in self._oracle.values)
