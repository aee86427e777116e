"""What a fault is, and what it finds: each is injected by a function, and undone by what that does after
its `yield`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.dev.cluster import ReplicaProcess
from controller.dev.etcd import EtcdProcess
from tests.chaos.installation import Installation
from tests.chaos.recorder import Recorder


@dataclass
class Ground:
    """What a fault finds: `leader` is the replica that led when the step began, `destroyed` collects the
    tasks it killed.
    """

    installation: Installation
    recorder: Recorder
    leader: ReplicaProcess
    rng: random.Random
    destroyed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def follower(self) -> ReplicaProcess:
        """Any other replica that is up; the leader when there is none."""
        return self.rng.choice([r for r in self.installation.up() if r is not self.leader] or [self.leader])

    def members(self, count: int) -> list[EtcdProcess]:
        """Some members."""
        return self.rng.sample(self.installation.members, count)

    def signal(self, replica: ReplicaProcess, number: int) -> None:
        """Send a signal to a replica, unless it is down."""
        if replica.process is not None and replica.process.poll() is None:
            self.notes.append(replica.name)
            replica.process.send_signal(number)


Inject = Callable[[Ground], Iterator[None]]


class Fault(NamedTuple):
    """A fault: what it is called, which rows of the table of faults it is, what it strikes, how, and with
    which engine only.
    """

    name: str
    rows: tuple[int, ...]
    strikes: str
    inject: Inject
    engine: str = ""


FAULTS: dict[str, Fault] = {}


def fault(strikes: str, *rows: int, engine: str = "") -> Callable[[Inject], Inject]:
    """Register a fault. Two that strike the same are never injected at once."""

    def register(inject: Inject) -> Inject:
        name = inject.__name__.replace("_", " ")
        FAULTS[name] = Fault(name, rows, strikes, inject, engine)
        return inject

    return register
