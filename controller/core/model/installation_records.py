"""The part of the model that is of the whole installation: who leads, who it is, its replicas, terms and
requests for repairs.
"""

from __future__ import annotations

from controller.core.model import codec, kept_log
from controller.core.model.installation import EngineRecord, Installation, decode_engine, decode_installation
from controller.core.model.records import Change
from controller.core.model.task import RepairRequest


class InstallationRecords:
    """See the module's docstring. Changed by Model alone."""

    def __init__(self) -> None:
        super().__init__()
        self.leader: Change | None = None
        self.epoch: Change | None = None
        self.installation: Installation | None = None
        self.engine: EngineRecord | None = None
        # what was read last of these two, by kind: a leader puts them back
        self.identity: dict[str, bytes] = {}
        self.replicas: dict[str, Change] = {}
        self.terms: dict[str, Change] = {}
        self.repairs: dict[str, tuple[RepairRequest, int]] = {}  # requests for repairs, with their mod
        self.repaired: dict[str, Change] = {}  # what became of them

    def take(self, change: Change) -> bool:
        """Take over a change of one of these; False when its kind is none of Tally's. Raises CorruptValue.

        Of a damaged installation or engine what was read last stays: neither identity may be taken for
        absent.
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
            case "replicas" | "terms" | "repaired":
                table = {"replicas": self.replicas, "terms": self.terms, "repaired": self.repaired}[
                    change.kind
                ]
                table.pop(change.names[0], None)
                if present is not None:
                    table[change.names[0]] = present
                _check_mapping(change)
            case kept_log.KIND:
                pass  # its mod is noted, and a model has no use for its bytes
            case _:
                return False
        return True

    def _remember(self, change: Change) -> None:
        if change.value is not None:
            self.identity[change.kind] = change.value


def _check_mapping(change: Change) -> None:
    """What is only shown is kept as it is, and told of where it cannot be read. Raises CorruptValue."""
    if change.value is not None:
        codec.decode_mapping(change.value)
