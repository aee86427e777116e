"""The proofs of a selftest: by etcd's history of its keys, by all replicas, and by an audit."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from controller.audit.audit import run_audit
from controller.audit.selftest.stage import CAPACITY, Failed, Skipped, Stage, require
from controller.core.model import codec
from controller.core.model.printable import counted
from controller.core.model.resources import ZERO, Vector
from controller.core.promise.finding import FindingSeverity
from controller.core.promise.replay import replay

HTTP_SECONDS = 10.0


class Proofs:
    """Each method is one item. It returns what was seen, or raises Failed or Skipped.

    `status` opens status URLs.
    """

    def __init__(self, stage: Stage, status: urllib.request.OpenerDirector) -> None:
        self._stage = stage
        self._status = status

    def cut_watch(self) -> str:
        """Compare a watch with one that is cut after each batch."""
        whole = self._stage.history("states/", cut=False)
        pieces = self._stage.history("states/", cut=True)
        require(
            whole == pieces,
            f"one watch saw {len(whole)} changes, and a watch that was cut after each batch saw"
            f" {len(pieces)}",
        )
        return f"{len(pieces)} changes, each once, in order"

    def balance(self) -> str:
        """Check the invariants I1 and I2 in etcd's history of the selftest's tasks and ledger."""
        changes = sorted(
            [*self._stage.history("states/", cut=False), *self._stage.history("ledgers/", cut=False)],
            key=lambda c: c.mod,
        )
        holds: dict[str, Vector] = {}
        ledger, revisions = ZERO, {change.mod for change in changes}
        for number, change in enumerate(changes):
            if "/ledgers/" in change.key:
                ledger = codec.decode_ledger(change.value)[0] if change.value is not None else ZERO
            else:
                holds[change.key] = (
                    codec.decode_status(change.value)[0].hold if change.value is not None else ZERO
                )
            if number + 1 < len(changes) and changes[number + 1].mod == change.mod:
                continue  # of the same transaction
            held = ZERO
            for hold in holds.values():
                held = held + hold
            require(
                ledger == held,
                f"at revision {change.mod} the ledger said {ledger}, but the tasks held {held}",
            )
            require(
                ledger.fits(CAPACITY),
                f"at revision {change.mod}, {ledger} was held, above the capacity {CAPACITY}",
            )
        require(not ledger, f"{ledger} is still held")
        return f"at {len(revisions)} revisions, and never above {CAPACITY}"

    def histories(self) -> str:
        """Check that each history is a path of the lifecycle that ends in the stored state."""
        for name in self._stage.tasks:
            view = self._stage.client.get(name)
            problems = replay(view.status) if view.status is not None else ["it has no status"]
            require(not problems, f"{name}: {'; '.join(problems)}")
        return f"{len(self._stage.tasks)} tasks, step by step"

    def replicas(self) -> str:
        """Compare the answers of each reachable replica with the store."""
        revision = self._stage.revision()
        answered, silent = 0, []
        for replica in self._stage.client.replicas.all():
            try:
                self._compare(replica.status_url, revision)
            except urllib.error.HTTPError as error:
                raise Failed(f"{replica.id} answers {error.code} {error.reason}") from error
            except (OSError, ValueError):  # no connection, or no URL
                silent.append(replica.id)
            else:
                answered += 1
        if not answered:
            raise Skipped(
                "no status endpoint can be reached from here"
                f" ({', '.join(silent) or 'no replica is registered'})"
            )
        beside = f"; {', '.join(silent)} cannot be reached from here" if silent else ""
        return f"{counted(answered, 'replica')} at revision {revision} or later{beside}"

    def audit(self) -> str:
        """Check by an audit that nothing of the selftest's own is wrong."""
        report = run_audit(
            self._stage.client.store,
            self._stage.engine,
            self._stage.client.keys.cluster,
            self._stage.client.clock,
        )
        ours = [
            f
            for f in report.findings
            if self._stage.name in f.subject and f.severity is FindingSeverity.WRONG
        ]
        require(
            not ours, "; ".join(f"{finding.invariant} {finding.subject} {finding.what}" for finding in ours)
        )
        others = (
            f"; {counted(report.wrong, 'finding')} about other things: see `tally audit`"
            if report.wrong
            else ""
        )
        require(not report.engine_problem, f"the engine cannot be listed: {report.engine_problem}")
        return (
            "nothing is wrong with the selftest's own records, according to etcd"
            f" {'alone' if self._stage.engine is None else 'and the engine'}{others}"
        )

    def _compare(self, url: str, revision: int) -> None:
        """Compare what a replica says of each task with what is stored.

        Raises OSError when it cannot be asked.
        """
        for name in self._stage.tasks:
            query = f"{url}/v1/tasks/{name}?min_revision={revision}&wait=5"
            with self._status.open(query, timeout=HTTP_SECONDS) as answer:
                told = json.load(answer)
            view = self._stage.client.get(name)
            require(
                told["state"] == view.state,
                f"{url} says that {name} is {told['state']}, but etcd says {view.state}",
            )
