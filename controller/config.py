"""Settings: flags, then `TALLY_…` in the environment, then a TOML file, then defaults; secrets only by file
path.

One field of `Settings` is one setting: `lease_ttl_seconds` is the flag `--lease-ttl-seconds`, the variable
`TALLY_LEASE_TTL_SECONDS` and the TOML key `lease_ttl_seconds`. An unknown key in the file is an error that
names it; unknown variables are left alone, since Kubernetes itself sets some (`TALLY_SERVICE_HOST` for a
service named tally) and so does Tally in each attempt. `python -m controller.config` prints the table that
stands in the README.

The parsers are those of the core. pydantic-settings would do the reading, but takes 350 ms to import, in
every command.
"""

# ruff: noqa: RUF009  # each `_setting` makes a dataclasses.field
from __future__ import annotations

import os
import re
import socket
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from controller.core.model.validation import parse_duration, parse_name
from controller.errors import InvalidField

Parse = Callable[[object, str], Any]

ENGINES = ("process", "null", "kubernetes", "docker")
LOWEST_LEASE_TTL_SECONDS = 2  # etcd grants no shorter lease with its default election time-out
CONFIG_PATHS = ("~/.config/tally/tally.toml", "/etc/tally/tally.toml")
DEV_CONFIG = ".tally/tally.toml"
"""What `tally dev` writes where it is called: read there when nothing says otherwise which etcd is meant."""


def parse_endpoints(raw: object, name: str) -> tuple[str, ...]:
    """etcd's client URLs from `a:2379,b:2379`, with or without scheme, or from a list of such texts."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidField(
            name, "expected etcd's client URLs, such as http://127.0.0.1:2379, separated by commas"
        )
    return tuple(_endpoint(str(text).strip(), name) for text in texts)


def _endpoint(text: str, name: str) -> str:
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port or 2379
    except ValueError:
        url, port = urlsplit(""), 0
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or url.path.strip("/")
        or url.query
        or url.username
    ):
        raise InvalidField(
            name, f"{text[:80]!r} is not the URL of an etcd member, such as http://127.0.0.1:2379"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


def parse_address(raw: object, name: str) -> str:
    """`HOST:PORT` to listen on; port 0 takes a free one."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})", str(raw))
    if match is None or int(match[2]) > 65535:
        raise InvalidField(name, f"{str(raw)[:80]!r} is not HOST:PORT, such as 127.0.0.1:9180")
    return str(raw)


def parse_advertised(raw: object, name: str) -> str:
    """`HOST` or `HOST:PORT` under which others reach the status endpoint; IPv6 addresses bare, or in
    brackets with a port.
    """
    text = str(raw)
    host = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", host)
    if match is None or int((match[2] or ":1")[1:]) not in range(1, 65536):
        raise InvalidField(
            name, f"{text[:80]!r} is not HOST or HOST:PORT, such as 10.0.0.7 or tally-1.example.org:9180"
        )
    return host


def _choice(*choices: str) -> Parse:
    def parse(raw: object, name: str) -> str:
        if raw not in choices:
            raise InvalidField(name, f"is {raw!r}, expected one of {', '.join(choices)}")
        return str(raw)

    return parse


def _text(raw: object, name: str) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise InvalidField(name, f"is {raw!r}, expected text")
    return raw


def _path(raw: object, name: str) -> Path:
    return (
        Path(_text(raw, name)).expanduser().absolute()
        if not isinstance(raw, Path)
        else raw.expanduser().absolute()
    )


def _file(raw: object, name: str) -> Path:
    path = _path(raw, name)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InvalidField(name, f"{path} is not a file that can be read here: give the path of one")
    return path


def _whole_seconds(raw: object, name: str) -> int:
    seconds = parse_duration(raw, name)
    if seconds != int(seconds):
        raise InvalidField(name, f"is {raw!r}, expected whole seconds (etcd counts leases so)")
    return int(seconds)


def _seconds(raw: object, name: str) -> float:
    seconds = parse_duration(raw, name)
    if seconds <= 0:
        raise InvalidField(name, "must be more than 0 seconds")
    return seconds


def _seconds_or_never(raw: object, name: str) -> float:
    seconds = parse_duration(raw, name)
    if seconds < 0:
        raise InvalidField(name, "must be 0 (never) or more seconds")
    return seconds


def _namespaces(raw: object, name: str) -> tuple[str, ...]:
    texts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not texts:
        raise InvalidField(name, "expected names of namespaces, separated by commas")
    return tuple(dict.fromkeys(parse_name(str(text).strip(), name, "a namespace") for text in texts))


def _count(raw: object, name: str) -> int:
    if isinstance(raw, bool) or not re.fullmatch(r"[1-9][0-9]{0,5}", str(raw)):
        raise InvalidField(name, f"is {raw!r}, expected a whole number from 1 on")
    return int(str(raw))


def _rate(raw: object, name: str) -> float:
    if (
        isinstance(raw, bool)
        or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", str(raw))
        or not float(str(raw))
    ):
        raise InvalidField(name, f"is {raw!r}, expected a number a second, above 0")
    return float(str(raw))


def _switch(raw: object, name: str) -> bool:
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


def default_replica() -> str:
    """The first label of the host's name, as a DNS label."""
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:63] or "replica"


def _setting(default: Any, parse: Parse, about: str, *, shown: str = "") -> Any:
    """A field with its parser, what it is, and how its default is shown when it depends on the machine."""
    metadata = {"parse": parse, "about": about, "shown": shown}
    return (
        field(default_factory=default, metadata=metadata)
        if callable(default)
        else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, checked. Durations are seconds; paths are absolute."""

    etcd: tuple[str, ...] = _setting(
        ("http://127.0.0.1:2379",),
        parse_endpoints,
        "etcd's client URLs, separated by commas; when one does not answer, the next is tried",
    )
    cluster: str = _setting(
        "default", parse_name, "name of the installation of Tally, and part of its key prefix in etcd"
    )
    user: str = _setting("", _text, "etcd user; needs `password_file`")
    password_file: Path | None = _setting(
        None, _file, "file with the user's password; read again when it changes"
    )
    ca_file: Path | None = _setting(
        None, _file, "certificate authority that etcd's certificate is verified against"
    )
    cert_file: Path | None = _setting(None, _file, "client certificate for etcd; needs `key_file`")
    key_file: Path | None = _setting(None, _file, "private key of the client certificate")
    request_timeout_seconds: float = _setting(
        5.0, _seconds, "time limit of one request to etcd, for all endpoints together"
    )
    replica: str = _setting(
        default_replica, parse_name, "name of this replica, unique in its cluster", shown="the host's name"
    )
    engine: str = _setting("process", _choice(*ENGINES), f"what runs attempts: {', '.join(ENGINES)}")
    state_dir: Path = _setting(
        lambda: Path("~/.local/state/tally").expanduser(),
        _path,
        "folder of the process engine, shared by all replicas on this machine",
        shown="~/.local/state/tally",
    )
    kubeconfig: Path | None = _setting(
        None,
        _file,
        "kubeconfig file; by default KUBECONFIG, then the pod's service account, then ~/.kube/config",
    )
    kube_context: str = _setting("", _text, "context of the kubeconfig, if not its current one")
    kube_namespaces: tuple[str, ...] = _setting(
        (),
        _namespaces,
        "namespaces that pools may use, separated by commas; the first is the default",
        shown="the kubeconfig's own",
    )
    kube_qps: float = _setting(50.0, _rate, "calls to Kubernetes per second, on average")
    kube_burst: int = _setting(100, _count, "calls to Kubernetes in one burst")
    kube_timeout_seconds: float = _setting(4.0, _seconds, "time limit of one call to Kubernetes")
    status: str = _setting(
        "127.0.0.1:9180", parse_address, "address of the status endpoint, HOST:PORT; port 0 picks a free one"
    )
    advertise: str = _setting(
        "",
        parse_advertised,
        "HOST or HOST:PORT at which others reach the status endpoint",
        shown="as `status`; the host's name when that listens everywhere",
    )
    status_cert_file: Path | None = _setting(
        None,
        _path,
        "certificate of the status endpoint, for TLS; needs `status_key_file`; commands present it to others",
    )
    status_key_file: Path | None = _setting(None, _path, "private key of that certificate")
    status_client_ca_file: Path | None = _setting(
        None,
        _path,
        "ask clients of the status endpoint for a certificate of this authority, or a token; needs"
        " `status_cert_file`",
    )
    status_token_file: Path | None = _setting(
        None,
        _path,
        "ask clients of the status endpoint for a token of this file, one per line; commands send the first",
    )
    status_ca_file: Path | None = _setting(
        None,
        _path,
        "certificate authority that commands verify the status endpoints against (`tally selftest`)",
    )
    lease_ttl_seconds: int = _setting(
        5,
        _whole_seconds,
        "time to live of the leader's lease; when a leader falls silent, a take-over needs about this long",
    )
    keepalive_interval_seconds: float = _setting(1.0, _seconds, "how often the leader renews its lease")
    deadline_margin_seconds: float = _setting(
        0.5, _seconds, "how long before its lease expires a leader stops acting"
    )
    fast_takeover: bool = _setting(
        True,
        _switch,
        "replace a leader as soon as a follower sees its connection refused, not only when its lease expires",
    )
    relist_seconds: float = _setting(
        30.0,
        _seconds,
        "how often the leader lists all attempts in the engine and compares them with its model",
    )
    heartbeat_seconds: float = _setting(
        2.0,
        _seconds,
        "how often each replica updates its registration in etcd, which also keeps every watch busy",
    )
    silence_seconds: float = _setting(
        10.0, _seconds, "a watch that is silent for longer than this is considered dead, and connects again"
    )
    audit_interval_seconds: float = _setting(
        60.0,
        _seconds_or_never,
        "how often the leader audits its own model, without a call to etcd or the engine; 0 disables it",
    )


class InvalidSetting(InvalidField):
    """A setting does not hold; says where it was found."""


class ResolvedConfig(NamedTuple):
    """The settings, and for each where its value came from: "flag --x", "environment TALLY_X", "file F" or
    "default".
    """

    settings: Settings
    origins: dict[str, str]


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return "TALLY_" + name.upper()


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], config: str | None = None
) -> ResolvedConfig:
    """The settings by precedence. `flags` maps setting names to what was given (None: not given).

    `config` is the TOML file to read; without it TALLY_CONFIG, then the first of CONFIG_PATHS that exists,
    then DEV_CONFIG. Raises InvalidSetting that names the setting and where the value was found.
    """
    names_etcd = bool(flags.get("etcd") or environ.get(variable_of("etcd")))
    path, table = _read_file(config or environ.get("TALLY_CONFIG"), None if names_etcd else _dev_config())
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for spec in fields(Settings):
        name = spec.name
        sources = (
            (f"flag {flag_of(name)}", flags.get(name)),
            # empty counts as not given
            (f"environment {variable_of(name)}", environ.get(variable_of(name)) or None),
            (f"file {path}", table.get(name)),
        )
        origin, raw = next(((origin, raw) for origin, raw in sources if raw is not None), ("default", None))
        origins[name] = origin
        if raw is None:
            continue
        try:
            values[name] = spec.metadata["parse"](raw, name)
        except InvalidField as error:
            raise InvalidSetting(error.field, f"{error.problem} (from {origin})") from None
    settings = Settings(**values)
    _check_pairs(settings)
    return ResolvedConfig(settings, origins)


def _dev_config() -> Path | None:
    """DEV_CONFIG, if we ourselves wrote it: a folder that somebody else prepared says neither where tasks
    nor secrets go.
    """
    path = Path(DEV_CONFIG)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    ours = (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    return path.absolute() if ours else None


def _read_file(given: str | None, last: Path | None) -> tuple[Path | None, dict[str, Any]]:
    # A home directory that may not be looked into (under systemd) holds no file for us: isfile says so,
    # Path.is_file raises.
    found = (Path(each) for each in map(os.path.expanduser, CONFIG_PATHS) if os.path.isfile(each))
    path = Path(given).expanduser() if given else next(found, last)
    if path is None:
        return None, {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting("config", f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting("config", f"{path} is not TOML: {error}") from None
    known = [spec.name for spec in fields(Settings)]
    for name in table:
        if name not in known:
            raise InvalidSetting(
                name, f"is not a setting (from file {path}): remove it; known are {', '.join(known)}"
            )
    return path, table


_NEEDED_TOGETHER = (
    ("user", "password_file"),
    ("password_file", "user"),
    ("cert_file", "key_file"),
    ("key_file", "cert_file"),
    ("status_cert_file", "status_key_file"),
    ("status_key_file", "status_cert_file"),
    ("status_client_ca_file", "status_cert_file"),
)


def _check_pairs(settings: Settings) -> None:
    for one, other in _NEEDED_TOGETHER:
        if getattr(settings, one) and not getattr(settings, other):
            raise InvalidSetting(
                other, f"is missing, but {one} is given: set {flag_of(other)} or {variable_of(other)}"
            )


def check_timings(settings: Settings) -> None:
    """The timings against each other, as a replica does at its start.

    Raises InvalidSetting that says what to change.
    """
    ttl = settings.lease_ttl_seconds
    if ttl < LOWEST_LEASE_TTL_SECONDS:
        raise InvalidSetting(
            "lease_ttl_seconds", f"is {ttl}, but etcd grants no lease below {LOWEST_LEASE_TTL_SECONDS} s"
        )
    for name, why in (
        ("keepalive_interval_seconds", "one lost renewal must not cost the leadership"),
        ("deadline_margin_seconds", "the leader would hardly ever be allowed to act"),
    ):
        value = getattr(settings, name)
        if value >= ttl / 2:
            raise InvalidSetting(
                name, f"is {value:g}, but must be below half of lease_ttl_seconds ({ttl / 2:g}): {why}"
            )
    if settings.silence_seconds <= 3 * settings.heartbeat_seconds:
        raise InvalidSetting(
            "silence_seconds",
            f"is {settings.silence_seconds:g}, but must be above 3 × heartbeat_seconds"
            f" ({3 * settings.heartbeat_seconds:g}): a live watch would be taken for a dead one",
        )


def table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = [
        f"| `{spec.name}` | {_shown_default(spec)} | {spec.metadata['about']} |" for spec in fields(Settings)
    ]
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows])


def text_of(value: object) -> str:
    """A setting's value as it would be written in a flag."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _shown_default(spec: Any) -> str:
    text = text_of(spec.default)
    return spec.metadata["shown"] or (f"`{text}`" if text else "")


if __name__ == "__main__":
    print(table())  # noqa: T201  # its purpose
