"""The network between a process and a server: requests and answers that are late, lost, or refused.

A request and its answer travel on their own: what the caller has given up waiting for can still arrive, and
take effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.simulation.scheduler import Machine, Scheduler

T = TypeVar("T")

LATEST_SECONDS = 25.0
"""No message arrives later than this: what is kept for longer (tombstones) need not fear it."""


class Unanswered(Exception):
    """No answer came in time. `sent` tells whether the request may have reached the server."""

    def __init__(self, sent: bool) -> None:
        super().__init__("no answer" if sent else "connection refused")
        self.sent = sent


@dataclass
class Link:
    """The way from one machine to one server, and its faults. Probabilities are of single messages."""

    up: bool = True  # False: connections are refused
    silent: bool = False  # True: what is sent vanishes
    deaf: bool = False  # True: requests arrive, answers vanish
    stalled: bool = False  # True: requests are answered, but watches bring nothing
    loss: float = 0.0
    late: float = 0.0  # messages that take up to LATEST_SECONDS
    slow: float = 1.0  # factor


class Server:
    """Whatever answers requests: etcd, or an engine."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.up = True  # False: no quorum, or an outage: requests are lost
        self.holds_up = ""  # the next request that begins so is late, whatever its link is like
        self.links: dict[str, Link] = {}

    def link(self, machine: Machine) -> Link:
        """The way from a machine to this server."""
        return self.links.setdefault(machine.name, Link())

    def late(self) -> float:
        """How long a late message takes: just too long, longer, or as long as one can live."""
        rng = self.scheduler.rng
        return rng.random() * rng.choice((0.1, 2.0, LATEST_SECONDS))

    def delay(self, link: Link) -> float:
        """How long one message takes."""
        rng = self.scheduler.rng
        if link.late and rng.random() < link.late:
            return self.late()
        if rng.random() < 0.02:  # a hiccup, as every network has it
            return rng.random() * 0.5
        return (0.0005 + rng.random() ** 3 * 0.01) * link.slow

    def call(self, what: str, action: Callable[[], T], timeout: float) -> T:
        """Send one request from the fiber that runs, wait for its answer, and return or raise what it says.

        `action` is what the server does when the request arrives. Raises Unanswered after `timeout` seconds
        (local).
        """
        return self.begin(what, action, timeout)()

    def begin(self, what: str, action: Callable[[], T], timeout: float) -> Callable[[], T]:
        """As `call`, up to the moment when the request has left; what is returned waits for the answer."""
        scheduler = self.scheduler
        fiber = scheduler.current
        assert fiber is not None, "only a simulated thread can call"
        machine = fiber.process.machine
        give_up_at = scheduler.now + timeout / machine.rate
        # until it leaves: a process can be stopped here, with all checks behind it
        fiber.sleep(scheduler.rng.random() * 3e-4)
        link = self.link(machine)
        if not link.up:
            scheduler.note(f"{self.name} {what}: refused")
            raise Unanswered(sent=False)
        answers: list[tuple[bool, Any]] = []
        waits: list[int] = []

        def deliver(answer: tuple[bool, Any]) -> None:
            answers.append(answer)
            for turn in waits:
                fiber.wake(turn, None)

        def arrive() -> None:
            if not self.up or self.link(machine).silent:
                return
            scheduler.note(f"{self.name} {what} from {fiber.process.name}")
            try:
                answer: tuple[bool, Any] = (True, action())
            except Exception as error:  # the server's answer, raised at the caller
                if getattr(error, "is_finding", False):
                    raise
                answer = (False, error)
            back = self.link(machine)
            if not (back.silent or back.deaf or scheduler.rng.random() < back.loss):
                scheduler.after(self.delay(back), lambda: deliver(answer))

        if not link.silent and scheduler.rng.random() >= link.loss:
            held_up = self.holds_up != "" and what.startswith(self.holds_up)
            if held_up:
                self.holds_up = ""
            scheduler.after(self.late() if held_up else self.delay(link), arrive)

        def result() -> T:
            if not answers:
                waits.append(fiber.begin_wait())
                fiber.wake(waits[0], None, max(0.0, give_up_at - scheduler.now))
                fiber.wait()
            if not answers:
                scheduler.note(f"{self.name} {what}: no answer")
                raise Unanswered(sent=True)
            worked, value = answers[0]
            if not worked:
                raise value
            answer: T = value
            return answer

        return result
