"""What a change of a task brings with it in records that are not its status: logs, attestations, notices."""

from __future__ import annotations

from msgspec import Struct

from controller.core.model import attested, features, kept_log, notices
from controller.core.model.model import Model
from controller.core.model.notices import EndNotice
from controller.core.model.records import Task
from controller.core.planning.decide import Decision
from controller.core.planning.kin import has_dependencies, is_on
from controller.core.planning.plan import NoticeChange, Plan
from controller.core.planning.transitions import Moment


class Beside(Struct, frozen=True, gc=False):
    """The kinds of records that are removed with the task, what is compared, and what is told about its end.

    `attested_mod` and `awaits_mod` are those of TaskChange. `is_unnoticed`: the outbox has no room for the
    notice, or the pool, which names the receivers, cannot be read.
    """

    also_removes: tuple[str, ...]
    attested_mod: int
    notice: NoticeChange | None
    is_unnoticed: bool
    awaits_mod: int = -1

    @property
    def operations(self) -> int:
        """How many the transaction needs for it."""
        compared = (self.attested_mod >= 0) + (self.awaits_mod >= 0)
        return len(self.also_removes) + compared + (self.notice is not None)

    @property
    def size(self) -> int:
        """Bytes of values."""
        return len(self.notice.value) if self.notice is not None else 0

    def add_to(self, plan: Plan) -> None:
        """Add the notice to the plan."""
        if self.notice is not None:
            plan.notices.append(self.notice)
        plan.unnoticed += self.is_unnoticed


NOTHING = Beside((), -1, None, is_unnoticed=False)


def beside(
    model: Model, task: Task, decision: Decision, moment: Moment, plan: Plan, may_have_log: bool
) -> Beside:
    """What comes with the decision, which is to be added to the plan.

    `may_have_log`: a log may be kept that the model does not show yet.
    """
    record = model.pools.get(task.pool)
    is_hidden = (
        record is None and ("pools", (task.pool,)) in model.quarantine and is_on(model, features.NOTIFY)
    )
    tells = is_hidden or (record is not None and bool(record.pool.notify))
    if not (tells or decision.removes or decision.compares_attested):
        return NOTHING  # nearly always
    also_removes: tuple[str, ...] = ()
    if decision.removes:
        also_removes = tuple(
            kind
            for kind in (attested.KIND, kept_log.KIND)
            if model.mod_of(kind, (task.id,)) or (kind == kept_log.KIND and may_have_log)
        )
    # a spec that a refusal has shown may have an attestation that the watch has yet to bring
    is_early = task.spec_mod == 0 or task.spec_mod > model.revision
    compares_attested = decision.compares_attested or (decision.removes and is_early)
    attested_mod = model.mod_of(attested.KIND, (task.id,)) if compares_attested else -1
    notice = notice_of_end(model, task, decision, moment)
    if notice is None:
        awaits_mod = -1
        if decision.removes and has_dependencies(model):  # a task that waits for it may be on its way
            awaits_mod = max(model.revision, model.dependencies.newest_await(task.id))
        unnoticed = is_hidden and _ends(task, decision)
        return Beside(also_removes, attested_mod, None, is_unnoticed=unnoticed, awaits_mod=awaits_mod)
    # who has many leaves as much room as it takes, so that the ends of others are told
    own = model.notice_counts[notice.pool, notice.owner] + len(plan.notices)
    is_full = own + len(model.notices) + len(plan.notices) >= notices.MAX_NOTICES
    change = NoticeChange(
        (task.id, notices.sequence_of(moment.epoch, moment.op)), notices.encode_notice(notice, moment.op)
    )
    return Beside(also_removes, attested_mod, None if is_full else change, is_unnoticed=is_full)


def notice_of_end(model: Model, task: Task, decision: Decision, moment: Moment) -> EndNotice | None:
    """What is to be told about the end that the decision records, if it records one.

    Of an array, its own end is told, and not those of its members.
    """
    status, record = decision.status, model.pools.get(task.pool)
    if record is None or not record.pool.notify or status is None or not _ends(task, decision):
        return None
    return notices.notice_of(task.id, task.spec, status, record.pool, moment.at / 1000)


def _ends(task: Task, decision: Decision) -> bool:
    """Whether the decision records an end that receivers may be told of."""
    was_finished = task.status is not None and task.status.is_finished
    return not (task.member_of or was_finished or decision.status is None) and decision.status.is_finished
