"""Sessions of browsers: a caller's token travels sealed in a cookie, which no script can read.

The gateway keeps nothing: a cookie holds the token, encrypted and authenticated (AES-256-GCM) with a key that
all gateways of an installation share (`gateway_session_key_file`), so that a session goes on at another
gateway and after a restart. Without the file, the key is the process's own. Each request is signed in again
with the token, so a session ends no later than its token; and after IDLE_SECONDS without a request, or after
LONGEST_SECONDS.

The cookie also holds a secret of the session. The page sends it in a header with each request that changes
something, which a page of another site cannot.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.datastructures import Headers

from controller.endpoint.reloaded import Reloaded, reloaded_file
from controller.errors import InvalidField

IDLE_SECONDS = 8 * 3600.0
LONGEST_SECONDS = 24 * 3600.0
RENEW_SECONDS = 600.0  # after which a request renews the cookie, so that it is not idle
AHEAD_SECONDS = 300.0  # that the clock of another gateway may be ahead
COOKIE = "tally-session"
SECURE_COOKIE = "__Host-tally-session"  # no other host, and nothing without TLS, can set one of this name
MOST_AUTHORIZATION_BYTES = 2800  # sealed and encoded, it fits into the 4096 bytes that browsers keep
_MOST_COOKIE_CHARACTERS = 4096
_KEY = re.compile(r"[0-9a-fA-F]{64}")
_NONCE_BYTES = 12
_SECRET_BYTES = 32
_HEAD = struct.Struct(f">{_SECRET_BYTES}sdd")  # the secret, when it began, when it was renewed
_FIELD = "gateway_session_key_file"


class SentCookie(NamedTuple):
    """A session's cookie as a request has it. `text` is "" if the request has several of them."""

    name: str
    text: str


class BrowserSession(NamedTuple):
    """An open session. Times are seconds since the epoch."""

    cookie: str  # the cookie's name
    authorization: str  # the Authorization header that it stands for
    secret: str  # what the page sends as X-Tally-CSRF
    begun: float
    renewed: float

    @property
    def ends_at(self) -> float:
        """When it ends if nothing is asked by then."""
        return min(self.begun + LONGEST_SECONDS, self.renewed + IDLE_SECONDS)


class Sessions:
    """Opens and seals the cookies of one installation. Any thread may call it.

    Raises InvalidField if the file of keys cannot be used at the start. If it becomes unusable later, the
    keys before stay in force.
    """

    def __init__(self, key_file: Path | None, cluster: str, now: Callable[[], float]) -> None:
        self._cluster = cluster
        self._now = now
        self._own = [_cipher(secrets.token_bytes(32), cluster)]
        self._file = _keys_file(key_file, cluster) if key_file is not None else None

    def begin(self, authorization: str, *, secure: bool) -> BrowserSession:
        """A new session. Raises InvalidField for a token that is too long for a cookie."""
        size = len(authorization.encode())
        if size > MOST_AUTHORIZATION_BYTES:
            raise InvalidField(
                "Authorization",
                f"has {size} bytes, and browsers keep cookies of up to {MOST_AUTHORIZATION_BYTES} of them:"
                " ask for a token with fewer claims, or use `tally login`",
            )
        now = self._now()
        name = SECURE_COOKIE if secure else COOKIE
        return BrowserSession(name, authorization, secrets.token_hex(_SECRET_BYTES), now, now)

    def opened(self, sent: SentCookie) -> BrowserSession | None:
        """The session of a cookie; None if no key opens it, or if the session has ended."""
        try:
            sealed = base64.b64decode(sent.text.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):  # also for text that is not ASCII
            return None
        for cipher in self._ciphers():
            try:
                plain = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(sent.name))
            except (InvalidTag, ValueError):  # ValueError: too short for a nonce
                continue
            secret, begun, renewed = _HEAD.unpack_from(plain)
            text = plain[_HEAD.size :].decode()
            session = BrowserSession(sent.name, text, secret.hex(), begun, renewed)
            now = self._now()
            return session if now < session.ends_at and renewed <= now + AHEAD_SECONDS else None
        return None

    def renewed(self, session: BrowserSession) -> BrowserSession | None:
        """The session as its cookie should be sent again; None if that is not due yet."""
        now = self._now()
        return session._replace(renewed=now) if now - session.renewed >= RENEW_SECONDS else None

    def header(self, session: BrowserSession) -> str:
        """The Set-Cookie header that keeps the session."""
        head = _HEAD.pack(bytes.fromhex(session.secret), session.begun, session.renewed)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers()[0].encrypt(
            nonce, head + session.authorization.encode(), _bound_to(session.cookie)
        )
        return _set_cookie(session.cookie, base64.urlsafe_b64encode(nonce + sealed).decode())

    def problems(self) -> Mapping[str, str]:
        """Why the file cannot be used now, by its setting; "" if it can."""
        self._ciphers()
        return {_FIELD: self._file.error if self._file is not None else ""}

    def _ciphers(self) -> list[AESGCM]:
        return self._file.current() if self._file is not None else self._own


def sent_cookie(headers: Headers, *, secure: bool) -> SentCookie | None:
    """The session's cookie that a request has; None if it has none. `secure`: it came by TLS.

    A request may have several of a name, where another host of the domain has set one. None of them counts.
    """
    for name in (SECURE_COOKIE,) if secure else (SECURE_COOKIE, COOKIE):
        texts = [
            value.strip()
            for header in headers.getlist("cookie")
            for key, _, value in (part.partition("=") for part in header.split(";"))
            if key.strip() == name
        ]
        if texts:
            is_one = len(texts) == 1 and len(texts[0]) <= _MOST_COOKIE_CHARACTERS
            return SentCookie(name, texts[0] if is_one else "")
    return None


def ending_header(name: str) -> str:
    """The Set-Cookie header that ends a session in the browser."""
    return f"{_set_cookie(name, '')}; Max-Age=0"


def _set_cookie(name: str, value: str) -> str:
    secure = "; Secure" if name == SECURE_COOKIE else ""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _bound_to(name: str) -> bytes:
    """What is authenticated beside the token: a cookie of one name is not one of the other."""
    return name.encode()


def _cipher(key: bytes, cluster: str) -> AESGCM:
    return AESGCM(hmac.digest(key, f"tally session of {cluster}".encode(), hashlib.sha256))


def _keys_file(file: Path, cluster: str) -> Reloaded[list[AESGCM]]:
    def parse(text: str) -> list[AESGCM]:
        lines = text.split()
        if not lines or not all(map(_KEY.fullmatch, lines)):
            raise InvalidField(
                "",
                "expected a key of 64 hexadecimal digits, or several, one a line: make one with"
                " `openssl rand -hex 32`",
            )
        return [_cipher(bytes.fromhex(line), cluster) for line in lines]

    return reloaded_file(file, _FIELD, parse, lambda before: before)
