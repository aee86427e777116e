"""What a leader knows of attempts in the engine during one tenure: observations, and effects under way.

Nothing of it is stored: each leader derives it again from the engine's list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from controller.core.model.records import Task
from controller.core.model.task import AttemptId, Observation, Phase

_LIVELINESS = {Phase.PENDING: 0, Phase.UNKNOWN: 1, Phase.RUNNING: 1, Phase.SUCCEEDED: 2, Phase.FAILED: 2}


def is_current(task: Task | None, attempt_id: AttemptId) -> bool:
    """Whether the attempt is the one that its task holds resources for. A gang has members in its place."""
    return (
        task is not None
        and task.status is not None
        and task.status.is_holding
        and not task.status.reserved
        and task.status.attempt == attempt_id.number
    )


class Attempt:
    """One attempt as this leader sees it. Times are seconds since the Unix epoch, by the leader's clock."""

    __slots__ = (
        "asked_at",
        "failures",
        "first_seen_at",
        "id",
        "keeping",
        "missing",
        "observation",
        "proving",
        "retry_at",
        "seen_at",
        "start_done_at",
        "starting",
        "stop_asked_at",
        "stop_failed",
        "stop_sent_at",
        "stopping",
        "trouble",
        "waits_since",
    )

    def __init__(self, attempt: AttemptId) -> None:
        self.id = attempt
        self.observation: Observation | None = None
        self.first_seen_at: float | None = None
        # the last observation: a list that began before it may lack the attempt, and proves nothing
        self.seen_at = 0.0
        # a Start is under way; Invariant: at most one effect is under way, except for `keeping`
        self.starting = False
        self.start_done_at: float | None = None  # since when a complete list must show it
        self.stopping = False  # a Stop is under way
        self.stop_asked_at: float | None = None  # when a Stop was first accepted; a Stop may be sent again
        self.stop_sent_at: float | None = None  # when one was last accepted
        self.missing = False  # a full list lacked it, and should not have
        self.proving = False  # a Prove is under way
        self.asked_at = 0.0  # since when
        # a KeepLog is under way: it may begin while a Stop still is, and no other effect begins meanwhile
        self.keeping = False
        self.retry_at: float | None = None  # the engine did not answer: no effect before
        self.failures = 0  # effects in a row that the engine did not answer
        self.trouble = ""  # the engine's words about the last of them
        self.stop_failed = False  # the last of them was a Stop
        self.waits_since = 0.0  # since when it waits for its present reason to wait

    @property
    def busy(self) -> bool:
        """Whether one of its effects is under way."""
        return self.starting or self.stopping or self.proving or self.keeping

    @property
    def may_be_alive(self) -> bool:
        """Whether it may run now, or later: no proof of stop has been seen."""
        return self.starting or (self.observation is not None and not self.observation.stopped)

    @property
    def must_start(self) -> bool:
        """Whether the engine is not known to have accepted a Start of it."""
        return self.start_done_at is None and (self.observation is None or self.observation.awaits_start)

    @property
    def must_be_told(self) -> bool:
        """Whether to send a Stop before asking about its end again, since it was asked once already."""
        return self.asked_at > 0 and self.stop_asked_at is None

    def must_wait(self, now: float) -> bool:
        """Whether one of its effects failed so recently that none begins yet."""
        return self.retry_at is not None and now < self.retry_at

    def answered(self) -> None:
        """The engine answered an effect: reset the failures."""
        self.failures, self.trouble, self.retry_at, self.stop_failed = 0, "", None, False

    def is_another(self, seen: Observation) -> bool:
        """Whether the observation is of another object than the one known under this name."""
        known = self.observation
        return known is not None and "" not in (seen.uid, known.uid) and seen.uid != known.uid


class Attempts:
    """All attempts that this leader has seen or started."""

    def __init__(self) -> None:
        self._by_task: dict[str, dict[int, Attempt]] = {}
        # A number is never used again while the engine may still have the name. Otherwise a task that is
        # submitted again under a removed task's name would adopt the result of that task's attempt.
        self._highest: dict[str, int] = {}
        self._relisted: dict[str, int] | None = None  # the same, as far as a full list was taken in by now

    def get(self, attempt: AttemptId) -> Attempt | None:
        """The attempt, if it is known."""
        known = self._by_task.get(attempt.task_id)
        return known.get(attempt.number) if known is not None else None

    def ensure(self, attempt: AttemptId) -> Attempt:
        """The attempt. If it was not known, it is now."""
        task_id, number = attempt
        known = self._by_task.get(task_id)
        found = known.get(number) if known is not None else None
        if found is not None and self._relisted is None:
            return found  # nearly always
        self.note(attempt)
        if found is None:
            found = self._by_task.setdefault(task_id, {})[number] = Attempt(attempt)
        return found

    def of_task(self, task_id: str) -> Iterable[Attempt]:
        """All known attempts of a task, by number."""
        known = self._by_task.get(task_id)
        if not known or len(known) == 1:  # nearly always
            return tuple(known.values()) if known else ()
        return [attempt for _, attempt in sorted(known.items())]

    def may_overlap(self, task: Task, *, but: int = 0, given_up: int = 0) -> bool:
        """Whether an attempt of the task may be alive, other than number `but`, so that none may start (I4).

        Attempts that the task's `on_lost`, or an operator, gave up do not count. `given_up`: nor do those up
        to this number.
        """
        if task.id not in self._by_task:
            return False  # nearly always
        abandoned = max(given_up, task.status.abandoned if task.status is not None else 0)
        return any(
            attempt.may_be_alive and attempt.id.number > abandoned and attempt.id.number != but
            for attempt in self.of_task(task.id)
        )

    def keeps_log(self, task_id: str) -> bool:
        """Whether the output of an attempt of the task is being kept."""
        return any(attempt.keeping for attempt in self.of_task(task_id))

    def note(self, attempt: AttemptId) -> None:
        """Note that the engine has, or may have, something of this name."""
        task_id, number = attempt
        if number > self._highest.get(task_id, 0):
            self._highest[task_id] = number
        if self._relisted is not None and number > self._relisted.get(task_id, 0):
            self._relisted[task_id] = number

    def highest(self, task_id: str) -> int:
        """The highest number that the engine may have for a task; 0 for none."""
        return self._highest.get(task_id, 0)

    def begin_list(self) -> None:
        """A full list is taken in from now on: what is noted until `end_list` is what the engine may have.

        If the list is given up, nothing is forgotten until the end of another one.
        """
        self._relisted = {}

    def end_list(self) -> None:
        """The full list was taken in: forget all names that are neither noted since nor known here."""
        assert self._relisted is not None
        for attempt in self:
            self.note(attempt.id)
        self._highest, self._relisted = self._relisted, None

    def drop(self, attempt: AttemptId) -> None:
        """Forget what is known of an attempt."""
        known = self._by_task.get(attempt.task_id)
        if known is not None:
            known.pop(attempt.number, None)
            if not known:
                del self._by_task[attempt.task_id]

    def __iter__(self) -> Iterator[Attempt]:
        for known in self._by_task.values():
            yield from known.values()

    def observe(self, seen: Observation, now: float, asked_at: float | None = None) -> Attempt | None:
        """Take in an observation; None if it tells nothing new.

        Repeated, late and reordered observations are harmless. `asked_at` is when it was requested; None for
        one of a watch. Once the stop of an object is proven, nothing changes that. But it proves nothing for
        another object of the same name, which was created after the first was removed. Only an
        observation that was requested since then tells which of the two exists. The same holds for an object
        in a terminal phase without proof: its node may have been given up too soon.
        """
        attempt = self.ensure(seen.attempt)
        before = attempt.observation
        is_newest = asked_at is not None and asked_at >= attempt.seen_at
        if attempt.is_another(seen):
            if not is_newest:
                return None
            is_released = attempt.start_done_at is not None and before is not None and not before.stopped
            if seen.awaits_start and is_released:
                # A late start of an earlier leader made it, after what this one had released was removed.
                # Nobody may release another one while the end of the first is not proven.
                attempt.missing = True
                return attempt
            before = None
        attempt.seen_at = now
        if attempt.first_seen_at is None:
            attempt.first_seen_at = now
        if before is not None:
            if before.started_at is not None and seen.started_at is None and not seen.stopped:
                seen = replace(seen, started_at=before.started_at)  # it has begun, whatever is seen of it now
            if before.stopped or before == seen:
                return None
            is_earlier = not seen.stopped and _LIVELINESS[seen.phase] < _LIVELINESS[before.phase]
            if is_earlier and (
                before.phase is Phase.RUNNING or (before.phase is not Phase.UNKNOWN and not is_newest)
            ):
                return None  # a late, older view of it: an attempt that has run does not wait again
        if before is None or before.waiting != seen.waiting:
            attempt.waits_since = now
        attempt.observation = seen
        return attempt
