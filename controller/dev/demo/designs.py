"""The same course for each naive design: 60 tasks end, or in 60 rounds one unit is free for three tasks.

Replicas race as they do. Four pauses, and no other, force what a busy system brings about sooner or later:
- Replicas take turns (`IN_TURN`).
- One of them is late at every tenth end (`AT_ONCE`).
- All have read before one writes (`BOTH` at the first end, acquisitions in each round).
- The leader is suspended once, between what it reads and what it writes. It goes on when another one has led
  to the last end (`LEADER`, `FENCED`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from controller.clock import Clock
from controller.dev.demo.backend import Backend
from controller.dev.demo.course import LATE_EVERY, REPLICAS, SUSPENDED_AT, TASKS, Course, CoursePoint, Design
from controller.dev.demo.orders import Act, Order, Pause, Told, Word
from controller.dev.demo.replicas import NaiveReplicas
from controller.store.base import Store

PREFIX = "/tally-demo/"

Shown = Callable[[Course], None]
"""Called whenever a course has gone on."""


class Naive:
    """Lets naive designs run their courses. Raises DemoFailed, StoreError."""

    def __init__(
        self, replicas: NaiveReplicas, store: Store, clock: Clock, shown: Shown, prefix: str = PREFIX
    ) -> None:
        self._replicas = replicas
        self._store = store
        self._clock = clock
        self._shown = shown
        self._prefix = prefix

    def run(self, design: Design) -> Course:
        """One design's course, on records of its own."""
        course = Course(design)
        prefix = f"{self._prefix}{design}/"
        records = Backend(self._store, prefix, self._clock)
        records.set_free(0)
        begun = time.monotonic()

        def note(truth: int, recorded: int) -> None:
            course.seconds = time.monotonic() - begun
            course.points.append(CoursePoint(truth, recorded))
            self._shown(course)

        match design:
            case Design.LEADER | Design.FENCED:
                self._led(course, prefix, records, note)
            case Design.ACQUIRE | Design.ACQUIRE_BALANCE:
                self._acquire(course, prefix, records, note)
            case _:
                self._release(course, prefix, records, note)
        return course

    def _release(
        self, course: Course, prefix: str, records: Backend, note: Callable[[int, int], None]
    ) -> None:
        for task in range(1, TASKS + 1):
            meets = course.design is Design.BOTH and task == 1
            order = Order(Act.HEAR, course.design, prefix, task, Pause.MEET if meets else Pause.NONE)
            for group in _groups(course.design, task):
                self._replicas.tell(order, *group)
                if meets:
                    self._meet()
                self._count(course, self._replicas.expect(Word.DONE, len(group)))
            note(task, records.free())

    def _acquire(
        self, course: Course, prefix: str, records: Backend, note: Callable[[int, int], None]
    ) -> None:
        given = 0
        for number in range(1, TASKS + 1):
            records.set_free(1)
            for replica in range(REPLICAS):
                task = REPLICAS * number + replica
                self._replicas.tell(Order(Act.ADMIT, course.design, prefix, task, Pause.MEET), replica)
            self._meet()
            told = self._replicas.expect(Word.DONE, REPLICAS)
            self._count(course, told)
            given += sum(each.took for _, each in told)
            note(number, given)

    def _led(self, course: Course, prefix: str, records: Backend, note: Callable[[int, int], None]) -> None:
        self._replicas.tell(Order(Act.CAMPAIGN, course.design, prefix))
        [(leader, _)] = self._replicas.expect(Word.LEADS)
        next_leader = leader
        others = [number for number in range(REPLICAS) if number != leader]
        for task in range(1, TASKS + 1):
            suspends = task == SUSPENDED_AT
            self._replicas.tell(Order(Act.HEAR, course.design, prefix, task), *others)
            pause = Pause.SUSPEND if suspends else Pause.NONE
            self._replicas.tell(Order(Act.HEAR, course.design, prefix, task, pause), leader)
            if suspends:
                self._replicas.wait_suspended(leader)
                [(next_leader, _)] = self._replicas.expect(Word.LEADS)
            self._count(course, self._replicas.expect(Word.DONE))
            note(task, records.free())
        self._replicas.resume(leader)
        self._count(course, self._replicas.expect(Word.DONE))
        note(TASKS, records.free())
        # the leader last, or another one would still win
        for replica in sorted(range(REPLICAS), key=lambda number: number == next_leader):
            self._replicas.tell(Order(Act.RESIGN, course.design, prefix), replica)
            self._replicas.expect(Word.RESIGNED)

    def _meet(self) -> None:
        self._replicas.expect(Word.MEETS, REPLICAS)
        self._replicas.tell(Order(Act.GO_ON))

    @staticmethod
    def _count(course: Course, told: list[tuple[int, Told]]) -> None:
        course.refused += sum(each.refused for _, each in told)


def _groups(design: Design, task: int) -> list[list[int]]:
    """The replicas that hear of this end together; the next group hears when they have written."""
    everybody = list(range(REPLICAS))
    if design is Design.IN_TURN:
        return [[replica] for replica in everybody]
    if design is Design.AT_ONCE and task % LATE_EVERY == 0:
        return [everybody[:-1], everybody[-1:]]
    return [everybody]
