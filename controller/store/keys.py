"""The key layout under `/tally/<cluster>/`.

Kinds, and who writes them: `tasks`, `requests`, `awaits`, `schedules` (users; the leader makes and cancels
the tasks of schedules), `attested`, `attested-schedules`, `gateways` (gateways; the last leased),
`delivered`, `notifier` (notifiers), `pools`, `repairs` (admins), `states`, `arrays`, `ledgers`, `shares`,
`claims`, `capacities`, `usage`, `terms`, `schedule-states`, `repaired`, `quarantined`, `logs`, `outbox`
(the leader), `leader`, `epoch`, `installation` (the winner of an election), `engine` (the same, and admins),
`replicas` (each replica, leased).
"""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.scalars import parse_name

ROOT = "/tally/"


class ParsedKey(NamedTuple):
    """A parsed key: its kind, and the rest, split. `requests` has two names, `leader` and `epoch` none."""

    kind: str
    names: tuple[str, ...]


_NAMES = {
    "leader": 0,
    "epoch": 0,
    "replicas": 1,
    "pools": 1,
    "tasks": 1,
    "requests": 2,
    "states": 1,
    "ledgers": 1,
    "terms": 1,
}
_NAMES |= {"shares": 2, "claims": 2, "usage": 2, "attested": 1, "outbox": 2, "delivered": 2, "notifier": 0}
_NAMES |= {"gateways": 1, "awaits": 2, "schedules": 1, "schedule-states": 1, "attested-schedules": 1}
_NAMES |= {"arrays": 2, "capacities": 1}
_NAMES |= {"repairs": 1, "repaired": 1, "quarantined": 1, "logs": 1, "installation": 0, "engine": 0}


_USUAL = frozenset(("tasks", "states"))  # nearly all keys of a full store


class Keys:
    """The keys of one cluster. Raises InvalidField if `cluster` is not a DNS label."""

    def __init__(self, cluster: str) -> None:
        self.cluster = parse_name(cluster, "cluster", "a cluster's name")
        self.prefix = f"{ROOT}{cluster}/"
        self.leader = f"{self.prefix}leader"
        self.epoch = f"{self.prefix}epoch"
        self.terms = f"{self.prefix}terms/"
        self.installation = f"{self.prefix}installation"
        self.engine = f"{self.prefix}engine"
        self.notifier = f"{self.prefix}notifier"
        self.gateways = f"{self.prefix}gateways/"
        self.capacities = f"{self.prefix}capacities/"
        self.awaits = f"{self.prefix}awaits/"
        self.schedules = f"{self.prefix}schedules/"
        self.attested_schedules = f"{self.prefix}attested-schedules/"
        self.schedule_states = f"{self.prefix}schedule-states/"

    def task(self, task_id: str) -> str:
        """The spec of a task."""
        return f"{self.prefix}tasks/{task_id}"

    def state(self, task_id: str) -> str:
        """The status of a task."""
        return f"{self.prefix}states/{task_id}"

    def request(self, task_id: str, kind: str) -> str:
        """A user's request on a task."""
        return f"{self.prefix}requests/{task_id}/{kind}"

    def attested(self, task_id: str) -> str:
        """A gateway's word for who submitted a task."""
        return f"{self.prefix}attested/{task_id}"

    def notice(self, task_id: str, sequence: str) -> str:
        """What is to be told about an end of a task."""
        return f"{self.prefix}outbox/{task_id}/{sequence}"

    def delivery(self, task_id: str, sequence: str) -> str:
        """What became of a notice."""
        return f"{self.prefix}delivered/{task_id}/{sequence}"

    def pool(self, pool: str) -> str:
        """A pool's definition."""
        return f"{self.prefix}pools/{pool}"

    def ledger(self, pool: str) -> str:
        """What is held of a pool."""
        return f"{self.prefix}ledgers/{pool}"

    def share(self, pool: str, owner: str) -> str:
        """What an owner holds of a pool with `sharing`, and has used of it."""
        return f"{self.prefix}shares/{pool}/{owner}"

    def claim(self, pool: str, task_id: str) -> str:
        """What is being freed for a task by preemption."""
        return f"{self.prefix}claims/{pool}/{task_id}"

    def usage(self, day: str, pool: str) -> str:
        """What the owners of a pool had used by the end of a day (`2026-11-27`, UTC)."""
        return f"{self.prefix}usage/{day}/{pool}"

    def replica(self, replica_id: str) -> str:
        """A replica's registration."""
        return f"{self.prefix}replicas/{replica_id}"

    def term(self, epoch: int) -> str:
        """The record of one term. The number is padded, so that keys sort as the epochs do."""
        return f"{self.terms}{epoch:012d}"

    def repair(self, request_id: str) -> str:
        """A request for repairs."""
        return f"{self.prefix}repairs/{request_id}"

    def repaired(self, request_id: str) -> str:
        """What became of a request for repairs."""
        return f"{self.prefix}repaired/{request_id}"

    def quarantined(self, task_id: str) -> str:
        """Why a task is set aside, after an error of Tally's own on it."""
        return f"{self.prefix}quarantined/{task_id}"

    def log(self, task_id: str) -> str:
        """The end of the output of a task's last attempt, if it is kept."""
        return f"{self.prefix}logs/{task_id}"

    def of(self, kind: str, names: tuple[str, ...]) -> str:
        """The key of any record of the model. The key of a foreign one (kind "unknown") is its one name."""
        return self.prefix + "/".join((kind, *names)) if kind in _NAMES else names[0]

    def parse(self, key: str) -> ParsedKey | None:
        """What `key` holds; None for a foreign key, which the audit shows and Tally leaves alone.

        A key is foreign if it is of no known kind, or has a backslash: no name of ours has one. The text of a
        key that is not UTF-8 has one (see `wire.key_text`).
        """
        if not key.startswith(self.prefix) or "\\" in key:
            return None
        kind, _, name = key[len(self.prefix) :].partition("/")
        if kind in _USUAL and name and "/" not in name:
            return ParsedKey(kind, (name,))
        kind, *names = key[len(self.prefix) :].split("/")
        if _NAMES.get(kind) != len(names) or not all(names):
            return None
        return ParsedKey(kind, tuple(names))
