"""The secrets that requests to receivers are signed with: a TOML file, read again when it changes.

default = ["whsec_…"]                      # of all receivers that have none of their own
[hosts]
"hooks.example.org" = ["whsec_…", "whsec_…"]  # several: while one is exchanged
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from controller.core.model.fields import mapping
from controller.core.model.notify_url import parse_notify_url
from controller.core.model.scalars import shown
from controller.core.model.toml import parse_toml
from controller.endpoint.reloaded import Reloaded, reloaded_file
from controller.errors import InvalidField
from controller.notifier.signing import parse_secret


class SigningSecrets(NamedTuple):
    """The keys by host, and those of all others."""

    by_host: dict[str, tuple[bytes, ...]]
    default: tuple[bytes, ...] = ()

    def of(self, host: str) -> tuple[bytes, ...]:
        """The keys for a receiver; none if it has none."""
        return self.by_host.get(host, self.default)


def parse_secrets(text: str) -> SigningSecrets:
    """The content of such a file. Raises InvalidField, which shows no secret."""
    raw = parse_toml(text)
    if unknown := raw.keys() - {"default", "hosts"}:
        raise InvalidField(shown(min(unknown)), "is unknown: expected default and hosts")
    hosts = mapping(raw.get("hosts", {}), "hosts", "expected a table of hosts, each with a list of secrets")
    found = SigningSecrets(
        {_host(host): _keys(secrets, f"hosts.{host}"[:100]) for host, secrets in hosts.items()},
        _keys(raw["default"], "default") if "default" in raw else (),
    )
    if not found.default and not found.by_host:
        raise InvalidField("default", "is missing, and so are hosts: nothing could be signed")
    return found


def secrets_file(file: Path) -> Reloaded[SigningSecrets]:
    """The secrets of a file. If it becomes unusable, the old ones stay. Raises InvalidField."""
    return reloaded_file(file, FIELD, parse_secrets, lambda before: before)


FIELD = "notifier_secrets_file"


def _host(text: str) -> str:
    """A host as URLs of receivers have it. Raises InvalidField for what no URL can match."""
    literal = f"[{text}]" if text.count(":") > 1 else text
    found = parse_notify_url(f"https://{literal}/", f"hosts.{text}"[:100])
    if text.lower() != found.host:
        raise InvalidField(f"hosts.{text}"[:100], f"expected a host alone, such as {found.host}")
    return found.host


def _keys(raw: object, field: str) -> tuple[bytes, ...]:
    if not isinstance(raw, list) or not raw:
        raise InvalidField(field, "expected a list of secrets")
    return tuple(parse_secret(secret, f"{field}[{index}]") for index, secret in enumerate(raw))
