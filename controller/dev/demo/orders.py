"""What the demo tells a replica, and what the replica answers: JSON lines on its stdin and stdout."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from controller.dev.demo.course import Design


class Act(StrEnum):
    """What a replica is to do."""

    HEAR = "hear"  # that a task has ended
    ADMIT = "admit"  # a waiting task
    CAMPAIGN = "campaign"  # to lead this design
    RESIGN = "resign"
    GO_ON = "go on"  # after a meeting


class Pause(StrEnum):
    """What a replica does between what it reads and what it writes."""

    NONE = "none"
    MEET = "meet"  # it waits until it is told to go on
    SUSPEND = "suspend"  # it sends itself SIGSTOP


class Order(Struct):
    """One line to a replica. `task` is a number from 1 on."""

    act: Act
    design: Design = Design.IN_TURN
    prefix: str = ""
    task: int = 0
    pause: Pause = Pause.NONE


class Word(StrEnum):
    """What a replica tells."""

    READY = "ready"
    MEETS = "meets"
    LEADS = "leads"
    DONE = "done"
    RESIGNED = "resigned"
    ENDED = "ended"  # told of it: its pipe was closed


class Told(Struct):
    """One line of a replica. `refused` counts the refused transactions of this task."""

    event: Word
    task: int = 0
    refused: int = 0
    took: bool = False
