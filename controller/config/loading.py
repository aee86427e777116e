"""Loads the settings by precedence (flags, environment, file, defaults), and checks that they fit together.

An unknown key in the file is an error that names it. Unknown variables are ignored: Kubernetes itself sets
some (`TALLY_SERVICE_HOST` for a service named tally), and so does Tally in each attempt. pydantic-settings
could read the settings, but takes 350 ms to import, in every command.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from controller.config.settings import Settings, flag_of, variable_of
from controller.config.values import expanded
from controller.core.model.toml import parse_toml
from controller.errors import InvalidField

LOWEST_LEASE_TTL_SECONDS = 2  # etcd grants no shorter lease with its default election time-out

CONFIG_PATHS = ("~/.config/tally/tally.toml", "/etc/tally/tally.toml")

DEV_CONFIG = ".tally/tally.toml"
DEV_SETTINGS = {"etcd", "cluster", "ca_file", "cert_file", "key_file"}  # that `tally dev` writes into it
"""The file that `tally dev` writes in the folder where it is called.

It is read there if neither a flag nor a variable names etcd or a gateway, and no other file is found.
"""


class InvalidSetting(InvalidField):
    """The value of a setting is not valid. The error says where it was found."""


@contextmanager
def settings_in_use() -> Iterator[None]:
    """What a service finds invalid as it starts is a setting of it, such as a file of short tokens.

    Raises InvalidSetting in place of InvalidField: to start again, as it is, would not help.
    """
    try:
        yield
    except InvalidSetting:
        raise
    except InvalidField as error:
        raise InvalidSetting(error.field, error.problem) from error


class ResolvedConfig(NamedTuple):
    """The settings, and the origin of each.

    An origin is "flag --x", "environment TALLY_X", "file F" or "default".
    """

    settings: Settings
    origins: dict[str, str]

    @property
    def uses_gateway(self) -> bool:
        """Whether the settings lead to a gateway: `server` or `etcd`, whichever has the better origin.

        Raises InvalidSetting if flags give both, or the environment does.
        """
        if not self.settings.server:
            return False
        server, etcd = (_rank(self.origins[name]) for name in ("server", "etcd"))
        if server == etcd and server < _rank("file"):
            where = self.origins["server"].partition(" ")[0]
            raise InvalidSetting("server", f"is given beside etcd ({where}): give one of them")
        return server <= etcd


def _rank(origin: str) -> int:
    """0 for the best origin."""
    return ["flag", "environment", "file", "default"].index(origin.partition(" ")[0])


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], config: str | None = None
) -> ResolvedConfig:
    """The settings by precedence. `flags` maps the name of a setting to its given value (None: not given).

    `config` is the TOML file to read. Without it, the file is TALLY_CONFIG, or else the first of CONFIG_PATHS
    that exists, or else DEV_CONFIG. Raises InvalidSetting, naming the setting and the origin of its value.
    """
    is_aimed = any(flags.get(name) or environ.get(variable_of(name)) for name in ("etcd", "server"))
    path, table = _read_file(config or environ.get("TALLY_CONFIG"), None if is_aimed else _dev_config())
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
    try:
        settings = Settings(**values)
    except InvalidField as error:
        raise InvalidSetting(error.field, f"{error.problem} (from default)") from None
    if _is_for_another_gateway(settings, origins, table):
        settings, origins["token_file"] = replace(settings, token_file=None), "default"
    _check_pairs(settings)
    return ResolvedConfig(settings, origins)


def _is_for_another_gateway(
    settings: Settings, origins: Mapping[str, str], table: Mapping[str, object]
) -> bool:
    """Whether the token is of a file that names a gateway, and another gateway is asked for.

    A token is sent to whom it was given for alone: not to a misspelled host.
    """
    ours, wanted = table.get("server"), settings.server
    is_kept = settings.token_file is not None and origins["token_file"].startswith("file")
    return is_kept and isinstance(ours, str) and ours.rstrip("/") != wanted.rstrip("/")


def _dev_config() -> Path | None:
    """DEV_CONFIG, if this user wrote it: another user's file must not decide where tasks and secrets go."""
    path = Path(DEV_CONFIG)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    ours = (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)  # as `tally dev` writes it, and git does not
    )
    return path.absolute() if ours else None


def _read_file(given: str | None, last: Path | None) -> tuple[Path | None, dict[str, Any]]:
    # Under systemd, the home directory may not be accessible, and so holds no file for us. isfile returns
    # False then; Path.is_file raises.
    found = (Path(each) for each in map(os.path.expanduser, CONFIG_PATHS) if os.path.isfile(each))
    try:
        path = expanded(Path(given), "config") if given else next(found, last)
    except InvalidField as error:
        raise InvalidSetting(error.field, error.problem) from None
    if path is None:
        return None, {}
    try:
        table = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting("config", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidSetting("config", f"{path} is not TOML: {error}") from None
    except InvalidField as error:
        raise InvalidSetting("config", f"{path} {error}") from None
    if path == last and (foreign := table.keys() - DEV_SETTINGS):
        # it comes with the folder, as all that is in a repository: it names no secrets of its reader
        raise InvalidSetting(
            min(foreign),
            f"is not among what `tally dev` writes into {path}: if the file is yours, give it by --config",
        )
    known = [spec.name for spec in fields(Settings)]
    for name in table:
        if name not in known:
            raise InvalidSetting(
                name, f"is not a setting (from file {path}): remove it; the settings are {', '.join(known)}"
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
    ("gateway_cert_file", "gateway_key_file"),
    ("gateway_key_file", "gateway_cert_file"),
    ("gateway_client_ca_file", "gateway_cert_file"),
)


def _check_pairs(settings: Settings) -> None:
    for one, other in _NEEDED_TOGETHER:
        if getattr(settings, one) and not getattr(settings, other):
            raise InvalidSetting(
                other, f"is missing, but {one} is given: set {flag_of(other)} or {variable_of(other)}"
            )


def check_timings(settings: Settings) -> None:
    """Check the timings against each other. A replica does so at its start.

    Raises InvalidSetting that says what to change.
    """
    ttl = settings.lease_ttl_seconds
    if ttl < LOWEST_LEASE_TTL_SECONDS:
        raise InvalidSetting(
            "lease_ttl_seconds", f"is {ttl}, but the shortest lease of etcd is {LOWEST_LEASE_TTL_SECONDS} s"
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
