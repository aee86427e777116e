"""The roles of one cluster of Tally, as ranges of etcd's keys.

Pure; `auth` applies them to etcd.

| role | reads | writes |
|---|---|---|
| controller | all of the cluster's keys | all of the cluster's keys |
| user | the same | `tasks/`, `requests/`, `awaits/`, `schedules/` |
| admin | the same | as a user, `pools/`, `repairs/`, `delivered/`, `engine`, `leader` (it steps down) |
| gateway | the same | as a user, `attested/`, `attested-schedules/`, `gateways/` |
| notifier | `outbox/`, `delivered/`, `notifier` | `delivered/`, `notifier` |
| reader | the same | nothing |

Every role but the notifier's, which talks to whomever a pool names, reads everything: each guard of a
transaction is a read, and the answer to "why does it wait" depends on all records. The controller writes
everything: it removes specs after their retention, and any other key that an admin names for repair. A leader
without the right to do what was asked would lose its office over it, and so would its successor. etcd knows
ranges of keys, and no right finer than write: a user who may put a spec may also overwrite or delete one, and
may make any kind of request. A pool with `require_attested` runs no spec that anybody but a gateway has put:
see `core.model.attested`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from controller.store.etcd.wire import prefix_range
from controller.store.keys import Keys


class Role(StrEnum):
    """The role of a user in a cluster."""

    CONTROLLER = "controller"
    USER = "user"
    ADMIN = "admin"
    GATEWAY = "gateway"
    NOTIFIER = "notifier"
    READER = "reader"

    def name_in(self, cluster: str) -> str:
        """The name of the role in etcd, which may serve several clusters."""
        return f"tally-{cluster}-{self}"


class Permission(NamedTuple):
    """One right in etcd's terms: READ or WRITE on the keys from `start` up to, but not including, `end`.

    An empty `end` means `start` alone.
    """

    right: str
    start: str
    end: str = ""

    def __str__(self) -> str:
        keys = f"{self.start} up to {self.end}" if self.end else self.start
        if self.end and prefix_range(self.start.encode())[1] == self.end.encode():
            keys = f"{self.start}*"
        return f"{self.right.lower()} {keys}"


def permissions(role: Role, keys: Keys) -> tuple[Permission, ...]:
    """All rights of a role."""
    read = _below("READ", keys.prefix)
    match role:
        case Role.READER:
            return (read,)
        case Role.USER:
            return (read, *_user(keys))
        case Role.GATEWAY:
            return (
                read,
                *_user(keys),
                _below("WRITE", keys.attested("")),
                _below("WRITE", keys.attested_schedules),
                _below("WRITE", keys.gateways),
            )
        case Role.NOTIFIER:
            return (
                _below("READ", keys.notice("", "")[:-1]),
                _below("READWRITE", keys.delivery("", "")[:-1]),
                Permission("READWRITE", keys.notifier),
            )
        case Role.ADMIN:
            return (
                read,
                *_user(keys),
                _below("WRITE", keys.pool("")),
                _below("WRITE", keys.repair("")),
                _below("WRITE", keys.delivery("", "")[:-1]),
                Permission("WRITE", keys.engine),
                Permission("WRITE", keys.leader),
            )
        case Role.CONTROLLER:
            return (_below("READWRITE", keys.prefix),)


def _user(keys: Keys) -> tuple[Permission, ...]:
    own = (keys.task(""), f"{keys.prefix}requests/", keys.awaits, keys.schedules)
    return tuple(_below("WRITE", prefix) for prefix in own)


def _below(right: str, prefix: str) -> Permission:
    start, end = prefix_range(prefix.encode())
    return Permission(right, start.decode(), end.decode())
