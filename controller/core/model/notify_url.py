"""The URL of a receiver that is told about ended tasks.

Only spellings that mean the same to every reader are accepted: what one library takes for a name and another
for an address, as `127.1`, is refused here. Which addresses may be connected to is decided when the name is
resolved, by `controller.notifier.addresses`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from controller.core.model.scalars import shown
from controller.errors import InvalidField

MAX_URL_CHARACTERS = 2000
DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_NAME_CHARACTERS = 253

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a name never ends in one: resolvers take it for an address


class NotifyUrl(NamedTuple):
    """The parts of a receiver's URL.

    `host` is a DNS name in lower case, or an address in its usual spelling, without brackets. `path` begins
    with a slash and has the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them: the scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def shown_receiver(url: str) -> str:
    """A receiver's host, and its port unless it is the scheme's own: the path may be secret.

    What is no valid URL may be stored, too: by hand, or by a release with other rules.
    """
    try:
        return parse_notify_url(url, "url", allow_http=True).authority
    except InvalidField:
        return "(no valid URL)"


def host_of(url: str) -> str:
    """A receiver's host alone; "" for what is no valid URL."""
    try:
        return parse_notify_url(url, "url", allow_http=True).host
    except InvalidField:
        return ""


def masked_url(url: str) -> str:
    """A receiver's URL without its path, for who may not know it."""
    scheme = "http" if url.startswith("http://") else "https"
    return f"{scheme}://{shown_receiver(url)}/***"


def parse_notify_url(raw: object, field: str, *, allow_http: bool = False) -> NotifyUrl:
    """The parts of an https URL; of an http URL too, where the operator allows it.

    Raises InvalidField. It shows no more of the URL than its host, since path and query may be secret.
    """
    if not isinstance(raw, str) or not raw:
        raise InvalidField(field, "expected the URL of a receiver, such as https://hooks.example.org/tally")
    if len(raw) > MAX_URL_CHARACTERS:
        raise InvalidField(field, f"has {len(raw)} characters, but at most {MAX_URL_CHARACTERS} are allowed")
    if not re.fullmatch(r"[!-~]+", raw) or "\\" in raw:
        raise InvalidField(
            field,
            "may hold only printable ASCII, without spaces and backslashes: write other characters of the"
            " path with % and those of a name in Punycode (xn--…)",
        )
    try:
        url = urlsplit(raw)
        port = url.port
    except ValueError:
        raise InvalidField(field, "is no URL: its host or port is broken") from None
    if url.scheme not in ("https", "http"):
        raise InvalidField(field, "must begin with https://")
    if url.scheme == "http" and not allow_http:
        raise InvalidField(field, "must begin with https://: anyone on the way could read and change http")
    if "@" in url.netloc:
        raise InvalidField(field, "must not have a user or password: receivers check the signature instead")
    if "#" in raw:
        raise InvalidField(field, "must not have a fragment: remove '#' and what follows, or write it as %23")
    if port == 0 or url.netloc.endswith(":"):
        raise InvalidField(field, "must have a port from 1 to 65535 after ':', or neither")
    path = (url.path if url.path.startswith("/") else f"/{url.path}") + (f"?{url.query}" if url.query else "")
    return NotifyUrl(url.scheme, _host(url.netloc, field), port or DEFAULT_PORTS[url.scheme], path)


def _host(netloc: str, field: str) -> str:
    """The host between the slashes, in its usual spelling. Raises InvalidField."""
    if netloc.startswith("["):
        literal, _, rest = netloc[1:].partition("]")
        if (rest and not rest.startswith(":")) or "%" in literal:
            raise InvalidField(field, f"{shown(netloc)} is no address: write [2001:db8::1] without a zone")
        try:
            return str(ipaddress.IPv6Address(literal))
        except ValueError:
            raise InvalidField(field, f"{shown(netloc)} is no IPv6 address") from None
    host = netloc.partition(":")[0].lower()
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise InvalidField(
                field, f"{shown(host)} is no IPv4 address: write four decimal numbers, without leading zeros"
            ) from None
    if host.endswith("."):
        raise InvalidField(field, f"{shown(host)} ends with a dot: remove it")
    labels = host.split(".")
    if len(host) > _MAX_NAME_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidField(
            field, f"{shown(host)} is no DNS name: its parts may hold a-z, 0-9 and '-', at most 63 each"
        )
    return host
