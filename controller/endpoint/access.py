"""Access to the status endpoint: TLS, bearer tokens and client certificates, all optional.

A client may read if it sends a valid token or shows a certificate that the client authority signed. If
neither is configured, every client may read. A browser sends the token as the password of HTTP basic
authentication, with any user name, so the live page needs no login form.

All files are checked for changes when they are used, so a new token or certificate is valid from the next
request or connection on. A token file has one token per line; an old token can stay valid until all clients
have the new one. If the token file becomes unusable, no token is accepted. If a new certificate does not
load, the previous one stays in use. Both are logged.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.config.values import is_address
from controller.endpoint.reloaded import Reloaded
from controller.errors import InvalidField

SHORTEST_TOKEN = 16  # characters; `openssl rand -hex 32` gives 64


@dataclass(frozen=True, slots=True)
class StatusFiles:
    """The files that protect the endpoint; None: not used.

    `cert_file` and `key_file` go together, and `client_ca_file` needs both.
    """

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    token_file: Path | None = None


class EndpointAccess:
    """The endpoint's protection. Raises InvalidField for files that cannot be used at the start.

    `hosts` are the names of the endpoint. An endpoint that listens on loopback only and asks for no
    credentials refuses other names: a web page could point its own name to 127.0.0.1 (DNS rebinding), and
    read the endpoint through a browser. `prefix` begins the names of the settings that an error names.
    """

    def __init__(
        self, files: StatusFiles = StatusFiles(), *, hosts: Iterable[str] = (), prefix: str = "status_"
    ) -> None:
        self._hosts = frozenset(("localhost", *hosts))
        self.asks = files.token_file is not None or files.client_ca_file is not None
        self._tokens = _token_file(files.token_file) if files.token_file is not None else None
        self.tls: ssl.SSLContext | None = None
        if files.cert_file is not None and files.key_file is not None:
            self._contexts = _contexts(files.cert_file, files.key_file, files.client_ca_file, prefix)
            self.tls = self._contexts.current()
            # OpenSSL calls this for each handshake, even if the client sent no name.
            self.tls.sni_callback = self._use_current

    def admits(self, authorization: str, certified: bool) -> bool:
        """Whether a request may read. `certified`: its connection has a valid client certificate."""
        return not self.asks or certified or self._knows(_token_in(authorization))

    def expects(self, host: str) -> bool:
        """Whether a request with this Host header is for this endpoint; see `hosts`."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return not name or name in self._hosts or name.endswith(".localhost") or is_address(name)

    def _knows(self, given: bytes) -> bool:
        if self._tokens is None or not given:
            return False
        # a list, not a generator: every token is compared, each in constant time
        return any([hmac.compare_digest(given, token) for token in self._tokens.current()])  # noqa: C419

    def _use_current(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._contexts.current()


def _token_in(authorization: str) -> bytes:
    """The token in an Authorization header; b"" when there is none."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _token_file(file: Path) -> Reloaded[list[bytes]]:
    def load() -> list[bytes]:
        tokens = [line.strip() for line in _readable(file, "status_token_file").splitlines() if line.strip()]
        if not tokens:
            raise InvalidField(
                "status_token_file",
                f"{file} has no token: write one to it, for example with `openssl rand -hex 32`",
            )
        if any(len(token) < SHORTEST_TOKEN for token in tokens):
            problem = (
                f"{file} has a token of fewer than {SHORTEST_TOKEN} characters, which can be guessed:"
                " generate one with `openssl rand -hex 32`"
            )
            raise InvalidField("status_token_file", problem)
        return tokens

    return Reloaded([file], load, lambda _: [])


def _contexts(cert: Path, key: Path, client_ca: Path | None, prefix: str) -> Reloaded[ssl.SSLContext]:
    files = {"cert_file": cert, "key_file": key} | ({"client_ca_file": client_ca} if client_ca else {})

    def load() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # a resumed session would not check the client's certificate again
        for name, file in files.items():
            _readable(file, prefix + name)
        try:
            # without `password`, OpenSSL would ask the terminal for a key's password
            context.load_cert_chain(cert, key, password=lambda: b"")
        except ssl.SSLError as error:
            raise InvalidField(
                f"{prefix}cert_file", f"{cert} and {key} are not a certificate and its private key: {error}"
            ) from None
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except ssl.SSLError as error:
                raise InvalidField(
                    f"{prefix}client_ca_file", f"{client_ca} contains no certificates: {error}"
                ) from None
            # Optional, since kubelet's probes have none. A certificate that is shown must be signed.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    return Reloaded(files.values(), load, lambda before: before)


def _readable(file: Path, field: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidField(field, f"{file} cannot be read: {error.strerror}") from None


def advertised_url(listening: str, advertise: str) -> str:
    """The URL at which others reach an endpoint that listens at the URL `listening`.

    `advertise` is the setting of that name.
    """
    url = urlsplit(listening)
    everywhere = url.hostname in ("0.0.0.0", "::")
    host = advertise or (socket.gethostname() if everywhere else url.netloc)
    return f"{url.scheme}://{host}" if urlsplit(f"//{host}").port else f"{url.scheme}://{host}:{url.port}"
