"""Who a caller is, as one of the gateway's ways to sign in has proved it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from controller.core.model.scalars import parse_text, shown
from controller.errors import InvalidField, TallyError

MAX_NAME_BYTES = 253  # as the longest name that Kubernetes gives an object


class Method(StrEnum):
    """How a caller has proved who it is."""

    TOKEN = "token"  # a static token of the gateway's own file
    CERTIFICATE = "certificate"
    OIDC = "oidc"
    KUBERNETES = "kubernetes"


class SignInUnavailable(TallyError):
    """Whoever must be asked about a token does not answer. Whether the token is valid is not known."""


class Identity(NamedTuple):
    """A caller. Names of different methods differ, by the prefix that the gateway gives to each method."""

    name: str
    groups: frozenset[str]
    method: Method


def parse_identity_name(raw: object, field: str) -> str:
    """A caller's or a group's name: printable, without spaces, of at most MAX_NAME_BYTES.

    Raises InvalidField.
    """
    name = parse_text(raw, field)
    if not name or not name.isprintable() or any(character.isspace() for character in name):
        raise InvalidField(field, f"is {shown(name)}, expected a name without spaces, such as alice")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidField(field, f"{name[:20]!r}… has more than {MAX_NAME_BYTES} bytes")
    return name
