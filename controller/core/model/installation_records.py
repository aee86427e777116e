"""The records of the whole installation: its leader, identity, replicas, terms, and requests for repairs.

Also the records beside tasks: attestations, notices about ended tasks, kept logs, and schedules.
"""

from __future__ import annotations

from collections import Counter

from controller.core.model import attested, codec, kept_log, notices
from controller.core.model.attested import Attestation
from controller.core.model.installation import EngineRecord, Installation, decode_engine, decode_installation
from controller.core.model.records import Change, Task
from controller.core.model.requests import RepairRequest
from controller.core.model.schedule_records import ScheduleRecords


class InstallationRecords:
    """See the module's docstring. Only Model changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.leader: Change | None = None
        self.epoch: Change | None = None
        self.installation: Installation | None = None
        self.engine: EngineRecord | None = None
        # the last values of these two that were read, by kind: a leader restores them
        self.identity: dict[str, bytes] = {}
        self.replicas: dict[str, Change] = {}
        self.gateways: dict[str, Change] = {}
        self.notifier: Change | None = None  # the key of the notifier on duty
        self.terms: dict[str, Change] = {}
        self.repairs: dict[str, tuple[RepairRequest, int]] = {}  # requests for repairs, with their mod
        self.repaired: dict[str, Change] = {}  # their outcomes
        self.notices: dict[tuple[str, ...], notices.EndNotice] = {}  # (task, sequence) → notice
        self.notice_counts: Counter[tuple[str, str]] = Counter()  # of them, by pool and owner
        self.dead: dict[tuple[str, ...], float] = {}  # those of them that were given up, and when
        self.deliveries: dict[tuple[str, ...], notices.Delivery] = {}
        self.attested: dict[str, tuple[Attestation, int]] = {}  # task → its attestation, with its mod

        self.schedules = ScheduleRecords()

    def attestation_of(self, task: Task) -> Attestation | None:
        """The attestation that holds for the task's spec."""
        found, mod = self.attested.get(task.spec_id, (None, 0))
        spec_mod = task.source.spec_mod if task.source is not None else task.spec_mod
        if found is None or task.spec is None or not found.holds_for(mod, task.spec, spec_mod):
            return None
        return found

    def take(self, change: Change) -> bool:
        """Take in a change of one of these records. False if its kind is not in Tally's layout.

        Raises CorruptValue. A damaged installation or engine keeps its last value: neither identity may count
        as absent.
        """
        present = change if change.value is not None else None
        match change.kind:
            case "leader":
                self.leader = present
                _check_mapping(change)
            case "epoch":
                self.epoch = present
            case "installation":
                self.installation = decode_installation(change.value) if change.value is not None else None
                self._remember(change)
            case "engine":
                self.engine = decode_engine(change.value) if change.value is not None else None
                self._remember(change)
            case "repairs":
                self.repairs.pop(change.names[0], None)
                if change.value is not None:
                    self.repairs[change.names[0]] = (codec.decode_repair(change.value), change.mod)
            case "replicas" | "gateways" | "terms" | "repaired":
                tables = {"replicas": self.replicas, "gateways": self.gateways, "terms": self.terms}
                table = tables.get(change.kind, self.repaired)
                table.pop(change.names[0], None)
                if present is not None:
                    table[change.names[0]] = present
                _check_mapping(change)
            case attested.KIND:
                self.attested.pop(change.names[0], None)
                if change.value is not None:
                    self.attested[change.names[0]] = (attested.decode(change.value), change.mod)
            case notices.OUTBOX:
                if before := self.notices.pop(change.names, None):
                    self.notice_counts[before.pool, before.owner] -= 1
                    if not self.notice_counts[before.pool, before.owner]:
                        del self.notice_counts[before.pool, before.owner]
                self.dead.pop(change.names, None)
                if change.value is not None:
                    notice = self.notices[change.names] = notices.decode_notice(change.value)
                    self.notice_counts[notice.pool, notice.owner] += 1
                    if notice.dead is not None:
                        self.dead[change.names] = notice.dead.at
            case notices.DELIVERED:
                self.deliveries.pop(change.names, None)
                if change.value is not None:
                    self.deliveries[change.names] = notices.decode_delivery(change.value)
            case notices.NOTIFIER:
                self.notifier = present
                _check_mapping(change)
            case kept_log.KIND:
                pass  # its mod is noted; a model has no use for its bytes
            case "usage":
                _check_mapping(change)  # it is read on demand, and what cannot be read is shown before
            case _:
                return self.schedules.take(change)
        return True

    def _remember(self, change: Change) -> None:
        if change.value is not None:
            self.identity[change.kind] = change.value


def _check_mapping(change: Change) -> None:
    """Check a record that is only shown. It is kept as it is. Raises CorruptValue if it cannot be read."""
    if change.value is not None:
        codec.decode_mapping(change.value)
