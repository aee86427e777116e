"""Reads the output of attempts, from their engine or as it was kept in etcd."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from controller.client.calls import Calls
from controller.client.errors import NotFound
from controller.client.reading import Reading
from controller.client.replica_views import by_engine
from controller.client.replicas import Replicas
from controller.client.views import TaskView
from controller.core.model.kept_log import KeptLog
from controller.core.model.scalars import parse_integer
from controller.core.model.task import AttemptId
from controller.engine.base import ALL_LOGS, AttemptUnknown, Engine, LogOptions
from controller.errors import CorruptValue, UserError


class Outputs:
    """See the module's docstring."""

    def __init__(self, calls: Calls, reading: Reading, replicas: Replicas) -> None:
        self._cluster = calls.keys.cluster
        self._clock = calls.clock
        self._reading = reading
        self._replicas = replicas

    def logs(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        follow: bool = False,
        stop: threading.Event | None = None,
        engine: Engine | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """The output of an attempt (None: the last one), in chunks.

        With `follow`, it continues until the attempt has ended or `stop` is set. Without `engine`, the
        process engine of the registered replicas is used; it keeps output in a state folder, so this works
        only on the machine of that folder. Raises NotFound, EngineError, and UserError when no output can be
        read from this machine.
        Raises InvalidField for what is no number of an attempt.
        """
        attempt = None if attempt is None else parse_attempt(attempt)
        view = self._reading.task(task_id)
        number = view.attempt if attempt is None else attempt
        if view.spec is not None and view.spec.array is not None:
            raise NotFound(
                f"task {task_id!r} is an array, and has no output of its own: name a member, such as"
                f" {task_id}-i0 (`tally get task {task_id} --members` lists them)"
            )
        if number < 1 and view.finished:
            why = f" ({view.reason})" if view.reason else ""
            raise NotFound(
                f"task {task_id!r} ended as {view.state}{why} without an attempt, and has no output: see"
                f" `tally explain {task_id}`"
            )
        if number < 1:
            raise NotFound(
                f"task {task_id!r} has not started yet, and has no output: see `tally explain {task_id}`"
            )
        own = self._own_attempts(view)
        if number not in own:
            raise NotFound(
                f"task {task_id!r} tells of no attempt {number}, and an earlier one of this name may be of"
                f" another task: choose {' to '.join(map(str, sorted({own.start, view.attempt})))}"
            )
        engine = engine if engine is not None else self.engine()
        if engine is None:
            raise UserError(
                "no registered replica has an engine whose output can be read from here: give --state-dir"
            )
        try:
            return engine.logs(AttemptId(task_id, number), follow=follow, stop=stop, options=options)
        except AttemptUnknown as error:
            raise NotFound(
                f"{error}: it never started, or it was removed by its stop or after its retention"
            ) from error

    def _own_attempts(self, view: TaskView) -> range:
        """The attempts that its history, or that of its gang, tells of; the last one of a member that ended.

        An engine keeps attempts for longer than their task is there, and somebody else may use its name.
        """
        of_gang = view.status is not None and view.status.of_gang
        teller = self._reading.task(view.member_of) if of_gang and view.member_of else view
        try:
            told = [step.attempt for step in teller.history() if step.attempt]
        except CorruptValue:
            told = []
        return range(min(told, default=view.attempt), view.attempt + 1)

    def last_attempt(self, task_id: str) -> int:
        """The number of the last attempt; 0 if there is none. Raises NotFound."""
        return self._reading.task(task_id).attempt

    def kept_log(self, task_id: str) -> KeptLog | None:
        """The kept log of the task; None when none was kept. Raises CorruptValue."""
        return self._reading.kept_log(task_id)

    def engine(self, state_dir: Path | None = None) -> Engine | None:
        """The process engine of the registered replicas, opened for reading.

        None when no replica has registered one. `state_dir` overrides the folder that the replicas have
        registered. Raises UserError when the folder is on another machine, and EngineUnavailable when it
        cannot be used.
        """
        from controller.engine.process.engine import ProcessEngine

        if state_dir is None:
            known = by_engine(self._replicas.all())
            replica = next(
                (r for r in known if r.engine.get("name") == "process" and r.engine.get("state_dir")), None
            )
            if replica is None:
                return None
            state_dir = Path(str(replica.engine["state_dir"]))
            if replica.host not in ("", socket.gethostname()):
                raise UserError(f"the replicas run attempts in {state_dir} on {replica.host}: run this there")
        engine = ProcessEngine(state_dir, self._cluster, self._clock, make=False)
        self.bind(engine)
        return engine

    def bind(self, engine: Engine) -> None:
        """Limit the engine to the attempts of this installation."""
        installation = self._reading.model("installation").installation
        if installation is not None:
            engine.bind(installation)


def parse_attempt(raw: object) -> int:
    """The number of an attempt. Raises InvalidField."""
    return parse_integer(raw, "attempt", 1, 2**31)
