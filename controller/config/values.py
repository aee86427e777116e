"""The parsers of settings. Each takes the given value and the setting's name, and raises InvalidField."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.core.model.scalars import parse_duration, parse_etcd_url, parse_name
from controller.errors import InvalidField

Parse = Callable[[object, str], Any]


def parse_endpoints(raw: object, name: str) -> tuple[str, ...]:
    """etcd's client URLs from `a:2379,b:2379`, with or without scheme, or from a list of such texts."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidField(
            name, "expected etcd's client URLs, such as http://127.0.0.1:2379, separated by commas"
        )
    return tuple(_endpoint(parse_text(text, name).strip(), name) for text in texts)


def _endpoint(text: str, name: str) -> str:
    scheme, host, port = parse_etcd_url(text if "://" in text else f"http://{text}", name)
    return f"{scheme}://{host}:{port}"


def parse_address(raw: object, name: str) -> str:
    """`HOST:PORT` to listen on. Port 0 picks a free one."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):([0-9]{1,5})", str(raw))
    if match is None or int(match[2]) > 65535 or (match[1][0] == "[" and not is_address(match[1][1:-1])):
        example = f"127.0.0.1:{raw}" if re.fullmatch(r"\d{1,5}", str(raw)) else "127.0.0.1:9180"
        raise InvalidField(name, f"{str(raw)[:80]!r} is not HOST:PORT, such as {example}")
    return str(raw)


def parse_advertised(raw: object, name: str) -> str:
    """`HOST` or `HOST:PORT` at which others reach the status endpoint.

    An IPv6 address is given bare, or in brackets with a port.
    """
    text = str(raw)
    host = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", host)
    if match is None or int((match[2] or ":1")[1:]) not in range(1, 65536):
        raise InvalidField(
            name, f"{text[:80]!r} is not HOST or HOST:PORT, such as 10.0.0.7 or tally-1.example.org:9180"
        )
    return host


def choice(*choices: str) -> Parse:
    """A parser that accepts one of these texts."""

    def parse(raw: object, name: str) -> str:
        if raw not in choices:
            raise InvalidField(name, f"is {raw!r}, expected one of {', '.join(choices)}")
        return str(raw)

    return parse


def parse_text(raw: object, name: str) -> str:
    """Any text that is not empty."""
    if not isinstance(raw, str) or not raw.strip():
        raise InvalidField(name, f"is {raw!r}, expected a string")
    return raw


def parse_server(raw: object, name: str, what: str = "a gateway, such as https://tally:9190") -> str:
    """The URL of a gateway, or of another server, without a slash at its end."""
    text = parse_text(raw, name).rstrip("/")
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and is_host(parts.hostname or "") and parts.port != 0
        is_url = is_url and not (parts.query or parts.fragment)
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidField(name, f"{text[:80]!r} is not the URL of {what}")
    return text


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on the host, a name or an address."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def is_host(text: str) -> bool:
    """Whether it can be a host's name (RFC 1123, with the length of each label), or is an address."""
    labels = text.removesuffix(".").split(".")
    return is_address(text) or (len(text) <= 255 and all(0 < len(label) <= 63 for label in labels))


def is_address(text: str) -> bool:
    """Whether it is an IP address, without brackets."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_path(raw: object, name: str) -> Path:
    """An absolute path. `~` is the home directory."""
    path = expanded(raw if isinstance(raw, Path) else Path(parse_text(raw, name)), name)
    try:
        return path.absolute()
    except FileNotFoundError:
        raise InvalidField(
            name, f"{path} is relative to the working directory, which is gone: give it from / on"
        ) from None


def expanded(path: Path, name: str) -> Path:
    """The path with a home directory in place of `~` or `~user`."""
    if "\0" in str(path):
        raise InvalidField(name, "a path cannot contain a NUL character")
    try:
        return path.expanduser()
    except RuntimeError:
        raise InvalidField(
            name, f"{path}: the home directory is not known: write it out, or ./~ for a file of that name"
        ) from None


def parse_file(raw: object, name: str) -> Path:
    """The path of a readable file."""
    path = parse_path(raw, name)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InvalidField(name, f"{path} is not a readable file: give the path of one")
    return path


def whole_seconds(raw: object, name: str) -> int:
    """A duration in whole seconds."""
    seconds = parse_duration(raw, name)
    if seconds != int(seconds):
        raise InvalidField(name, f"is {raw!r}, expected whole seconds, in which etcd counts leases")
    return int(seconds)


def positive_seconds(raw: object, name: str) -> float:
    """A duration above 0."""
    seconds = parse_duration(raw, name)
    if seconds <= 0:
        raise InvalidField(name, "must be more than 0 seconds")
    return seconds


def seconds_or_never(raw: object, name: str) -> float:
    """A duration, or 0 for never."""
    seconds = parse_duration(raw, name)
    if seconds < 0:
        raise InvalidField(name, "must be 0 (never) or more seconds")
    return seconds


def parse_namespaces(raw: object, name: str) -> tuple[str, ...]:
    """Names of namespaces from `a,b`, or from a list; each once."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidField(name, "expected names of namespaces, separated by commas")
    return tuple(dict.fromkeys(parse_name(str(text).strip(), name, "a namespace") for text in texts))


def parse_texts(raw: object, name: str) -> tuple[str, ...]:
    """Texts from `a,b`, or from a list; each once."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidField(name, "expected texts, separated by commas")
    return tuple(dict.fromkeys(parse_text(text, name).strip() for text in texts))


def parse_networks(raw: object, name: str) -> tuple[str, ...]:
    """Networks in CIDR notation, separated by commas."""
    networks = []
    for text in parse_texts(raw, name):
        try:
            networks.append(str(ip_network(text)))
        except ValueError as error:
            raise InvalidField(name, f"{error}: expected networks such as 10.1.0.0/16") from None
    return tuple(networks)


def parse_count(raw: object, name: str) -> int:
    """A whole number, at least 1."""
    if isinstance(raw, bool) or not re.fullmatch(r"[1-9][0-9]{0,5}", str(raw)):
        raise InvalidField(name, f"is {raw!r}, expected a whole number of at least 1")
    return int(str(raw))


def parse_rate(raw: object, name: str) -> float:
    """A number per second: at least 0.001, and below 1,000,000."""
    text = str(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else ""
    rate = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else 0.0
    if not 0.001 <= rate < 1_000_000:
        raise InvalidField(
            name, f"is {str(raw)[:80]!r}, expected a number per second, from 0.001 to below 1000000"
        )
    return rate


def parse_switch(raw: object, name: str) -> bool:
    """True or false, also as yes, no, on, off, 1 or 0."""
    known = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if isinstance(raw, bool):
        return raw
    if str(raw).lower() not in known:
        raise InvalidField(name, f"is {str(raw)[:80]!r}, expected true or false")
    return known[str(raw).lower()]
