"""All settings. One field of `Settings` is one setting.

`lease_ttl_seconds` is the flag `--lease-ttl-seconds`, the variable `TALLY_LEASE_TTL_SECONDS` and the TOML key
`lease_ttl_seconds`.
"""

# ruff: noqa: RUF009  # each `_setting` makes a dataclasses.field
from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from controller.config.values import (
    Parse,
    choice,
    expanded,
    parse_address,
    parse_advertised,
    parse_count,
    parse_endpoints,
    parse_file,
    parse_namespaces,
    parse_networks,
    parse_path,
    parse_rate,
    parse_server,
    parse_switch,
    parse_text,
    parse_texts,
    positive_seconds,
    seconds_or_never,
    whole_seconds,
)
from controller.core.model.scalars import parse_name
from controller.errors import InvalidField

ENGINES = ("process", "null", "kubernetes", "docker")


def default_replica() -> str:
    """The first label of the host's name, as a DNS label."""
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:63] or "replica"


def default_state_dir() -> Path:
    """In the home directory. Where that is not known, the process engine alone needs another."""
    try:
        return expanded(Path("~/.local/state/tally"), "state_dir")
    except InvalidField:
        return Path("~/.local/state/tally")


def _setting(default: Any, parse: Parse, about: str, *, shown: str = "") -> Any:
    """A field with its parser, its meaning, and the text of a default that depends on the machine."""
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
    server: str = _setting(
        "", parse_server, "URL of a gateway that commands use in place of etcd, such as https://tally:9190"
    )
    token_file: Path | None = _setting(
        None, parse_file, "file with the token for that gateway; read again for each call"
    )
    user: str = _setting("", parse_text, "etcd user; needs `password_file`")
    password_file: Path | None = _setting(
        None, parse_file, "file with the user's password; read again when it changes"
    )
    ca_file: Path | None = _setting(
        None, parse_file, "certificate authority that etcd's certificate is verified against"
    )
    cert_file: Path | None = _setting(None, parse_file, "client certificate for etcd; needs `key_file`")
    key_file: Path | None = _setting(None, parse_file, "private key of the client certificate")
    request_timeout_seconds: float = _setting(
        5.0, positive_seconds, "time limit of one request to etcd, for all endpoints together"
    )
    replica: str = _setting(
        default_replica,
        parse_name,
        "name of this replica, gateway or notifier, unique among those of its cluster",
        shown="the host's name",
    )
    engine: str = _setting("process", choice(*ENGINES), f"what runs attempts: {', '.join(ENGINES)}")
    state_dir: Path = _setting(
        default_state_dir,
        parse_path,
        "folder of the process engine, shared by all replicas on this machine",
        shown="~/.local/state/tally",
    )
    kubeconfig: Path | None = _setting(
        None,
        parse_file,
        "kubeconfig file; by default KUBECONFIG, then the pod's service account, then ~/.kube/config",
    )
    kube_context: str = _setting("", parse_text, "context of the kubeconfig, if not its current one")
    kube_namespaces: tuple[str, ...] = _setting(
        (),
        parse_namespaces,
        "namespaces that pools may use, separated by commas; the first is the default",
        shown="the kubeconfig's own",
    )
    kube_qps: float = _setting(50.0, parse_rate, "calls to Kubernetes per second, on average")
    kube_burst: int = _setting(100, parse_count, "calls to Kubernetes in one burst")
    kube_timeout_seconds: float = _setting(4.0, positive_seconds, "time limit of one call to Kubernetes")
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
        parse_path,
        "certificate of the status endpoint, for TLS; needs `status_key_file`; commands present it to others",
    )
    status_key_file: Path | None = _setting(None, parse_path, "private key of that certificate")
    status_client_ca_file: Path | None = _setting(
        None,
        parse_path,
        "ask clients of the status endpoint for a certificate of this authority, or a token; needs"
        " `status_cert_file`",
    )
    status_token_file: Path | None = _setting(
        None,
        parse_path,
        "ask clients of the status endpoint for a token of this file, one per line; commands send the first",
    )
    status_ca_file: Path | None = _setting(
        None,
        parse_path,
        "certificate authority that commands verify the status endpoints against (`tally selftest`)",
    )
    gateway: str = _setting(
        "127.0.0.1:9190", parse_address, "address of `tally gateway`, HOST:PORT; port 0 picks a free one"
    )
    gateway_policy_file: Path | None = _setting(
        None, parse_path, "what the callers of the gateway may do (TOML); without it, it does not start"
    )
    gateway_tokens_file: Path | None = _setting(
        None, parse_path, "the gateway's callers with tokens (TOML); it has the tokens' hashes only"
    )
    gateway_cert_file: Path | None = _setting(
        None, parse_path, "certificate of the gateway, for TLS; needs `gateway_key_file`"
    )
    gateway_key_file: Path | None = _setting(None, parse_path, "private key of that certificate")
    gateway_client_ca_file: Path | None = _setting(
        None,
        parse_path,
        "callers of the gateway may present a certificate of this authority; needs `gateway_cert_file`",
    )
    gateway_session_key_file: Path | None = _setting(
        None,
        parse_path,
        "keys that seal the sessions of the gateway's page (64 hexadecimal digits, one a line; the first"
        " seals), the same for all gateways",
        shown="a key of the process's own",
    )
    gateway_oidc_issuer: str = _setting(
        "",
        parse_text,
        "OpenID provider (URL) whose tokens the gateway takes; needs `gateway_oidc_audience`",
    )
    gateway_oidc_audience: str = _setting("", parse_text, "audience that those tokens must be for")
    gateway_oidc_name_claim: str = _setting("sub", parse_text, "claim of those tokens that names the caller")
    gateway_oidc_groups_claim: str = _setting("groups", parse_text, "claim that names the caller's groups")
    gateway_oidc_prefix: str = _setting(
        "oidc:", parse_text, "begins the names and groups of those callers, so that they are nobody else's"
    )
    gateway_oidc_ca_file: Path | None = _setting(
        None, parse_path, "certificate authority that the provider's certificate is verified against"
    )
    gateway_kubernetes: bool = _setting(
        False,
        parse_switch,
        "take tokens of service accounts, and ask the Kubernetes of `kubeconfig` about them",
    )
    gateway_kubernetes_audiences: tuple[str, ...] = _setting(
        (),
        parse_texts,
        "audiences of which such a token must have one, separated by commas",
        shown="those of the API server",
    )
    gateway_rate: float = _setting(50.0, parse_rate, "requests per second of one caller, on average")
    gateway_burst: int = _setting(100, parse_count, "requests of one caller in one burst")
    notifier: str = _setting(
        "127.0.0.1:9191",
        parse_address,
        "address of the notifier's metrics, HOST:PORT; port 0 picks a free one",
    )
    notifier_secrets_file: Path | None = _setting(
        None, parse_path, "what requests to receivers are signed with (TOML); without it, it does not start"
    )
    notifier_ca_file: Path | None = _setting(
        None,
        parse_path,
        "certificate authorities that receivers' certificates are verified against",
        shown="those of the system",
    )
    notifier_allow_http: bool = _setting(
        False, parse_switch, "also tell receivers whose URL begins with http://"
    )
    notifier_allowed_networks: tuple[str, ...] = _setting(
        (),
        parse_networks,
        "networks that receivers may be in though they are not public, such as 10.1.0.0/16, separated by"
        " commas",
    )
    notifier_give_up_seconds: float = _setting(
        86400.0, positive_seconds, "a receiver that cannot be told for so long is given up"
    )
    lease_ttl_seconds: int = _setting(
        5,
        whole_seconds,
        "time to live of the leader's lease; replacing a silent leader takes about this long",
    )
    keepalive_interval_seconds: float = _setting(
        1.0, positive_seconds, "how often the leader renews its lease"
    )
    deadline_margin_seconds: float = _setting(
        0.5, positive_seconds, "how long before its lease expires a leader stops acting"
    )
    fast_takeover: bool = _setting(
        True,
        parse_switch,
        "replace a leader as soon as a follower sees its connection refused, not only when its lease expires",
    )
    relist_seconds: float = _setting(
        30.0,
        positive_seconds,
        "how often the leader lists all attempts in the engine and compares them with its model",
    )
    heartbeat_seconds: float = _setting(
        2.0,
        positive_seconds,
        "how often each replica updates its registration in etcd, which also keeps every watch busy",
    )
    silence_seconds: float = _setting(
        10.0,
        positive_seconds,
        "a watch that is silent for longer than this is considered dead, and connects again",
    )
    forecast_seconds: float = _setting(
        0.0,
        seconds_or_never,
        "how often a replica or gateway looks ahead unasked, so that the error of its forecasts is measured;"
        " 0: only when asked",
    )
    audit_interval_seconds: float = _setting(
        60.0,
        seconds_or_never,
        "how often the leader audits its own model, without a call to etcd or the engine; 0 disables it",
    )


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return "TALLY_" + name.upper()


def table() -> str:
    """The settings as a Markdown table, for deploy/configuration.md."""
    rows = [
        f"| `{spec.name}` | {_shown_default(spec)} | {spec.metadata['about']} |" for spec in fields(Settings)
    ]
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows])


def text_of(value: object) -> str:
    """A setting's value, as it is written in a flag."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format(Decimal(repr(value)).normalize(), "f")  # as it is read: never with an exponent
    return "" if value is None else str(value)


def _shown_default(spec: Any) -> str:
    text = text_of(spec.default)
    return spec.metadata["shown"] or (f"`{text}`" if text else "")
