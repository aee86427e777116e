"""Static tokens: a file of the gateway that has their hashes, and never the tokens themselves.

    [[tokens]]
    name = "alice"
    groups = ["vision"]
    sha256 = "9f86d0…"
    expires = 2027-01-31T00:00:00Z

A token is long and random (`tally gateway token` makes one), so that a fast hash protects it: there is no
dictionary to try.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from controller.core.model.fields import mapping, read_fields
from controller.core.model.scalars import shown
from controller.core.model.toml import parse_toml
from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method, parse_identity_name

PREFIX = "tally_"  # what scanners for leaked secrets look for
_RANDOM_BYTES = 32
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Token(NamedTuple):
    """One line of the file. `expires` is in seconds since the epoch; None for never."""

    identity: Identity
    expires: float | None


class Tokens:
    """The tokens of a file, by their hashes."""

    def __init__(self, by_digest: Mapping[str, Token]) -> None:
        self._by_digest = dict(by_digest)

    def __len__(self) -> int:
        return len(self._by_digest)

    def expired(self, now: float) -> list[str]:
        """The names of the tokens that are refused since they have expired."""
        found = (
            each for each in self._by_digest.values() if each.expires is not None and each.expires <= now
        )
        return sorted({each.identity.name for each in found})

    def groups_of(self, name: str) -> frozenset[str]:
        """The groups of all tokens of this name."""
        of_name = (token.identity for token in self._by_digest.values() if token.identity.name == name)
        return frozenset(group for identity in of_name for group in identity.groups)

    def identify(self, token: str, now: float) -> Identity | None:
        """Whose token this is; None if nobody's, or if it has expired.

        What a look-up's time can tell is the hash of a guess, which is of no use to who guesses.
        """
        found = self._by_digest.get(digest(token))
        return (
            found.identity if found is not None and (found.expires is None or now < found.expires) else None
        )


def new_token() -> str:
    """A token that nobody has guessed."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> str:
    """The hash of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def entry(name: str, groups: Sequence[str], token: str, expires: datetime | None) -> str:
    """What the file has of a token."""
    # TOML has no surrogate pairs, which JSON in ASCII writes
    text = partial(json.dumps, ensure_ascii=False)
    lines = ["[[tokens]]", f"name = {text(name)}"]
    if groups:
        lines.append(f"groups = {text(list(groups))}")
    lines.append(f'sha256 = "{digest(token)}"')
    if expires is not None:
        lines.append(f"expires = {expires.strftime('%Y-%m-%dT%H:%M:%SZ')}")
    return "\n".join(lines)


def parse_tokens(text: str) -> Tokens:
    """The tokens of a file's text. Raises InvalidField, which names the token and the field."""
    return Tokens(read_fields(parse_toml(text), {"tokens": _parse_tokens}).get("tokens", {}))


def _parse_tokens(raw: object, field: str) -> dict[str, Token]:
    if not isinstance(raw, list):
        raise InvalidField(field, "expected a list of tables: [[tokens]]")
    found: dict[str, Token] = {}
    for index, each in enumerate(raw):
        place = f"{field}[{index}]"
        sha256, token = _parse_token(each, place)
        if sha256 in found:
            raise InvalidField(
                f"{place}.sha256", "is the hash of an earlier token too: each token is one caller's"
            )
        found[sha256] = token
    return found


def _parse_token(raw: object, field: str) -> tuple[str, Token]:
    given = mapping(raw, field, "expected a table with name, groups, sha256 and expires")
    values: dict[str, Any] = read_fields(
        given,
        {
            "name": parse_identity_name,
            "groups": _parse_groups,
            "sha256": _parse_digest,
            "expires": _parse_time,
        },
        f"{field}.",
    )
    for name in ("name", "sha256"):
        if name not in values:
            raise InvalidField(f"{field}.{name}", "is missing")
    identity = Identity(values["name"], frozenset(values.get("groups", ())), Method.TOKEN)
    return values["sha256"], Token(identity, values.get("expires"))


def _parse_groups(raw: object, field: str) -> list[str]:
    if not isinstance(raw, list):
        raise InvalidField(field, f"is {shown(raw)}, expected a list of names")
    return [parse_identity_name(each, f"{field}[{index}]") for index, each in enumerate(raw)]


def _parse_digest(raw: object, field: str) -> str:
    if not isinstance(raw, str) or _DIGEST.fullmatch(raw) is None:
        raise InvalidField(
            field,
            "expected the SHA-256 hash of a token, 64 hexadecimal digits: `tally gateway token` makes one",
        )
    return raw


def _parse_time(raw: object, field: str) -> float:
    if not isinstance(raw, datetime) or raw.tzinfo is None:
        told = shown(raw) if isinstance(raw, str) else str(raw)[:40]
        raise InvalidField(field, f"is {told}, expected a time with its zone, such as 2027-01-31T00:00:00Z")
    return raw.timestamp()
