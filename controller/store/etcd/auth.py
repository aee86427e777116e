"""Sets up etcd's roles and users step by step, and reports each step: the work of `tally auth init`.

It reads the present state, plans the missing steps, and then takes each. So a second run has nothing to do,
and the next run finishes one that was interrupted. A role gets exactly its rights: any others are taken away.
Nothing is taken away from users, and no password is changed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from controller.errors import UserError
from controller.store.base import StoreDenied, StoreError
from controller.store.etcd import wire
from controller.store.etcd.faults import ErrorClass, RpcError
from controller.store.etcd.gateway import Gateway, Unanswered, translate
from controller.store.etcd.roles import Permission, Role, permissions
from controller.store.keys import Keys

ROOT = "root"
"""etcd's own user and role that may do everything. Authentication cannot be switched on without them."""

_PASSWORD_BYTES = 24
_TAKEN = ("already exists", "is already granted to the user", "permission is not granted to the role")
"""etcd's words for a step that was taken before. Source: api/v3rpc/rpctypes/error.go in etcd's sources."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Member(NamedTuple):
    """A user who is to have a role: one of Tally's, or `root`."""

    role: Role | None  # None: etcd's root
    user: str


class SetupStep(NamedTuple):
    """One change. `request` is made when the step is taken, so that no password is kept or shown."""

    what: str
    path: str
    request: Callable[[], Mapping[str, Any]]


class EtcdAuth:
    """The roles and users of the etcd behind `gateway`. Raises StoreDenied, StoreUnavailable."""

    def __init__(self, gateway: Gateway, keys: Keys, call_seconds: float) -> None:
        self._gateway = gateway
        self._call_seconds = call_seconds
        self._keys = keys

    def is_enabled(self) -> bool:
        """Whether etcd requires users. If it does not, anyone who can reach etcd has full access."""
        try:
            if self._gateway.token(self._gateway.endpoints.now() + self._call_seconds):
                return True
        except RpcError as error:
            raise StoreDenied(str(error)) from error
        except Unanswered as error:
            raise error.translated() from error
        self._call("/auth/role/list", {})  # refused if etcd requires a user
        return False

    def plan(self, members: Sequence[Member], passwords: Path | None, *, enable: bool) -> list[SetupStep]:
        """The missing steps. Raises UserError for what cannot be done, before anything is done."""
        enabled = self.is_enabled()
        steps = [step for role in Role for step in self._role_steps(role)]
        users = self._names("/auth/user/list", "users")
        for user in dict.fromkeys(member.user for member in members):
            roles = [member.role for member in members if member.user == user]
            steps += self._user_steps(user, roles, passwords, exists=user in users)
        if enable and not enabled:
            steps.append(self._enabling(members, users))
        return steps

    def lacking(self, user: str) -> dict[str, list[str]]:
        """What each of the cluster's roles that the user has lacks, such as one of an older release.

        A user may ask for itself. Raises StoreDenied, StoreUnavailable, StoreError.
        """
        roles, lacking = self._call("/auth/user/get", {"name": user}).get("roles", []), {}
        for role in Role:
            if (name := role.name_in(self._keys.cluster)) in roles:
                present = self._permissions(name)
                wanted = permissions(role, self._keys)
                lacking[name] = [str(each) for each in wanted if each not in present]
        return lacking

    def take(self, step: SetupStep) -> None:
        """Take one step. A step that another user has taken meanwhile counts as taken."""
        try:
            self._call(step.path, step.request())
        except StoreError as error:
            if not any(words in str(error) for words in _TAKEN):
                raise

    # -- planning

    def _role_steps(self, role: Role) -> Iterator[SetupStep]:
        name, wanted = role.name_in(self._keys.cluster), permissions(role, self._keys)
        exists = name in self._names("/auth/role/list", "roles")
        if not exists:
            yield SetupStep(f"role {name} created", "/auth/role/add", lambda: {"name": name})
        present = self._permissions(name) if exists else ()
        # Missing rights come first: users with the role lose nothing while it is changed.
        for permission in wanted:
            if permission not in present:
                yield SetupStep(f"role {name} may {permission}", "/auth/role/grant", _grant(name, permission))
        ranges = {(permission.start, permission.end) for permission in wanted}
        for permission in present:
            # a role has one right on a range: the last that was granted
            if (permission.start, permission.end) not in ranges:
                yield SetupStep(
                    f"role {name} may no longer {permission}", "/auth/role/revoke", _revoke(name, permission)
                )

    def _user_steps(
        self, user: str, roles: Sequence[Role | None], passwords: Path | None, *, exists: bool
    ) -> Iterator[SetupStep]:
        if not exists:
            if passwords is None:
                raise UserError(
                    f"etcd has no user {user!r}: give --passwords DIR, a folder in which the file {user} has"
                    " its password, or is created with one"
                )
            yield self._creation(user, passwords / user)
        present = self._call("/auth/user/get", {"name": user}).get("roles", []) if exists else []
        for role in roles:
            name = role.name_in(self._keys.cluster) if role is not None else ROOT
            if name not in present:
                if role is None and ROOT not in self._names("/auth/role/list", "roles"):
                    yield SetupStep(
                        f"role {ROOT} created: it may do everything", "/auth/role/add", lambda: {"name": ROOT}
                    )
                yield SetupStep(f"user {user} has the role {name}", "/auth/user/grant", _member(user, name))

    @staticmethod
    def _creation(user: str, file: Path) -> SetupStep:
        if file.exists():
            _read_password(file)  # complains now, before anything is done
        made = "with the password in" if file.exists() else "with a new password, written to"
        return SetupStep(
            f"user {user} created, {made} {file}",
            "/auth/user/add",
            lambda: {
                "name": user,
                "password": _read_password(file) if file.exists() else _make_password(file),
            },
        )

    def _enabling(self, members: Sequence[Member], users: Sequence[str]) -> SetupStep:
        is_root = ROOT in users and ROOT in self._call("/auth/user/get", {"name": ROOT}).get("roles", [])
        if not is_root and Member(None, ROOT) not in members:
            raise UserError(
                f"authentication cannot be enabled: etcd needs the user {ROOT} with the role {ROOT}, or"
                f" no user could manage it afterwards. Add --grant {ROOT}={ROOT} --passwords DIR"
            )
        return SetupStep("authentication enabled", "/auth/enable", dict)

    # -- asking

    def _permissions(self, role: str) -> tuple[Permission, ...]:
        answer = msgspec.convert(self._call("/auth/role/get", {"role": role}), _RoleAnswer)
        return tuple(
            Permission(entry.permType, wire.key_text(entry.key), wire.key_text(entry.range_end))
            for entry in answer.perm
        )

    def _names(self, path: str, field: str) -> list[str]:
        return [str(name) for name in self._call(path, {}).get(field, [])]

    def _call(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        deadline = self._gateway.endpoints.now() + self._call_seconds
        try:
            return self._gateway.call(path, wire.encode(request), _decode, deadline=deadline)
        except Unanswered as error:
            raise error.translated() from error
        except RpcError as error:
            user = self._gateway.options.user
            if error.fault in (ErrorClass.DENIED, ErrorClass.TOKEN) and "permission denied" in str(error):
                raise StoreDenied(
                    f"the etcd user {user!r} may not manage roles and users: only {ROOT} may; give --user"
                    f" {ROOT} and its --password-file ({error})"
                ) from error
            raise translate(error, user, path, "call") from error


class _PermissionEntry(msgspec.Struct):
    """authpb.Permission. READ is left out, as the zero value."""

    key: bytes = b""
    range_end: bytes = b""
    permType: str = "READ"  # noqa: N815  # etcd's name


class _RoleAnswer(msgspec.Struct):
    perm: list[_PermissionEntry] = []


def _grant(role: str, permission: Permission) -> Callable[[], Mapping[str, Any]]:
    right, start, end = permission
    return lambda: {
        "name": role,
        "perm": {"permType": right, "key": start.encode(), "range_end": end.encode()},
    }


def _revoke(role: str, permission: Permission) -> Callable[[], Mapping[str, Any]]:
    return lambda: {"role": role, "key": permission.start.encode(), "range_end": permission.end.encode()}


def _member(user: str, role: str) -> Callable[[], Mapping[str, Any]]:
    return lambda: {"user": user, "role": role}


def _read_password(file: Path) -> str:
    """The password, read as a sign-in with this file reads it. Raises UserError."""
    try:
        password = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the password file {file} cannot be read: {error}") from None
    if not password:
        raise UserError(
            f"the password file {file} is empty: remove it to have one created, or write a password to it"
        )
    return password


def _make_password(file: Path) -> str:
    """A random password, in a new file that only its owner can read. Raises UserError."""
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(password + "\n")
    except OSError as error:
        raise UserError(f"the password file {file} cannot be written: {error.strerror}") from None
    return password
