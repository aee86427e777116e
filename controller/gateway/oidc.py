"""Callers with a token of an OpenID provider: its signature, issuer, audience and times are checked.

Sources: OpenID Connect Core 1.0 (3.1.3.7, what must be checked of a token), Discovery 1.0 (4.3, the issuer of
the document is the one that was asked for), RFC 8725 (the algorithms are ours to choose, never the token's).

The provider's keys are fetched when they are first needed, and again when a token names a key that is not
among them, or when they are old; not more often than the limits below say, whatever callers send. Old ones
are fetched beside the requests, which do not wait: while the provider does not answer, and until it has, the
keys that are known go on to count until they are too old.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
import structlog
from urllib3.exceptions import HTTPError

from controller.config.values import is_loopback, parse_server
from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method, SignInUnavailable, parse_identity_name

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a key pair. With a shared secret, whoever can check a token could also make one."""

LEEWAY_SECONDS = 30.0  # by which the provider's clock and ours may differ
PAUSE_SECONDS = 10.0  # between two fetches of the keys
FRESH_SECONDS = 300.0  # after which the keys are fetched again
USABLE_SECONDS = 24 * 3600.0  # after which keys that could not be fetched again do not count
TIMEOUT_SECONDS = 5.0  # of one request to the provider
MAX_BYTES = 2**20  # of a document of the provider
MAX_TOKEN_BYTES = 16 * 1024
_UNUSABLE = (
    requests.RequestException,
    HTTPError,  # urllib3's: the body is read below requests, which would translate it
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,  # JSON that is nested deeper than our stack
)
"""What a provider's answer can raise, whatever it is."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OidcOptions:
    """The provider, and how a caller's name and groups are read from a token.

    `prefix` begins all names and groups, so that none of them can be that of another way to sign in.
    """

    issuer: str
    audience: str
    name_claim: str = "sub"
    groups_claim: str = "groups"
    prefix: str = "oidc:"
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises InvalidField."""
        parse_server(self.issuer, "gateway_oidc_issuer", "a provider, such as https://login.example.org")
        url = urlsplit(self.issuer)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise InvalidField(
                "gateway_oidc_issuer",
                "is http: whoever is in between could give out keys of its own; use https",
            )
        if not self.audience:
            raise InvalidField(
                "gateway_oidc_audience", "is missing: a token for another service would be accepted here"
            )


class Oidc:
    """See the module's docstring. Any thread may call it; a call may wait for the provider."""

    method = Method.OIDC

    def __init__(
        self, options: OidcOptions, wall: Callable[[], float], boottime: Callable[[], float]
    ) -> None:
        self._options = options
        self.prefix = options.prefix
        self._wall = wall
        self._boottime = boottime
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy of the environment stands between us and the keys
        self._session.verify = str(options.ca_file) if options.ca_file is not None else True
        self._lock = threading.Lock()  # one fetch at a time
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None  # boottime
        self._tried_at: float | None = None
        self.error = ""  # why the last fetch failed

    def takes(self, token: str) -> bool:
        """Whether the token says that it is the provider's. Nothing of it is checked yet."""
        if len(token) > MAX_TOKEN_BYTES:
            return False
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            return False
        return claims.get("iss") == self._options.issuer

    def known(self, token: str) -> Identity | None:
        """Who the caller is, if its token names a key that is here."""
        kid = _key_named_by(token)
        is_here = self._find(kid) is not None and self._is_usable()
        return self._judge(token, self._key(kid)) if is_here else None

    def identify(self, token: str) -> Identity | None:
        """Who the caller is; None if the token is not valid. Raises SignInUnavailable."""
        return self._judge(token, self._key(_key_named_by(token)))

    def _judge(self, token: str, key: jwt.PyJWK | None) -> Identity | None:
        options = self._options
        if key is None or key.algorithm_name not in ALGORITHMS:
            return None
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=options.audience,
                issuer=options.issuer,
                leeway=LEEWAY_SECONDS,
                # the times are compared below, with the clock that is ours to set
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        return self._of_claims(claims) if self._is_in_time(claims) else None

    def _is_in_time(self, claims: Mapping[str, Any]) -> bool:
        now = self._wall()
        times = [claims.get(name, missing) for name, missing in (("exp", None), ("nbf", now), ("iat", now))]
        if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
            return False
        exp, nbf, iat = times
        return bool(now < exp + LEEWAY_SECONDS and max(nbf, iat) <= now + LEEWAY_SECONDS)

    def _of_claims(self, claims: Mapping[str, Any]) -> Identity | None:
        options = self._options
        groups = claims.get(options.groups_claim) or []
        name = claims.get(options.name_claim)
        if isinstance(groups, str):
            groups = [groups]
        if not (isinstance(name, str) and name and isinstance(groups, list)):
            return None
        if not all(isinstance(group, str) and group for group in groups):
            return None
        if options.name_claim == "email" and claims.get("email_verified") is not True:
            return None  # whoever may set an address could be anybody
        try:
            return Identity(
                parse_identity_name(options.prefix + name, options.name_claim),
                frozenset(parse_identity_name(options.prefix + each, "groups") for each in groups),
                Method.OIDC,
            )
        except InvalidField:
            return None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # -- keys

    def _key(self, kid: object) -> jwt.PyJWK | None:
        """The key of this name; without a name the only one. Fetches the keys if need be.

        Only who has no key waits for a fetch: a provider that is slow holds up nobody whose key is known.
        """
        found = self._find(kid)
        if self._wants_fetch(kid):
            if found is None or not self._is_usable():
                with self._lock:
                    self._fetch_if_wanted(kid)
            elif self._lock.acquire(blocking=False):
                threading.Thread(
                    target=self._fetch_beside, args=[kid], name="tally-oidc", daemon=True
                ).start()
        if not self._is_usable():
            raise SignInUnavailable(f"the keys of {self._options.issuer} cannot be had: {self.error}")
        found = self._find(kid)
        if found is None and self.error:  # it may be a new one
            raise SignInUnavailable(f"the keys of {self._options.issuer} cannot be had: {self.error}")
        return found

    def _fetch_beside(self, kid: object) -> None:
        """In a thread of its own, which has been given the lock."""
        try:
            self._fetch_if_wanted(kid)
        finally:
            self._lock.release()

    def _fetch_if_wanted(self, kid: object) -> None:
        if self._wants_fetch(kid):  # nobody has fetched them meanwhile
            self._fetch(self._boottime())

    def _is_usable(self) -> bool:
        return self._fetched_at is not None and self._boottime() - self._fetched_at < USABLE_SECONDS

    def _wants_fetch(self, kid: object) -> bool:
        now = self._boottime()
        is_old = self._fetched_at is None or now - self._fetched_at >= FRESH_SECONDS
        has_rested = self._tried_at is None or now - self._tried_at >= PAUSE_SECONDS
        return has_rested and (is_old or self._find(kid) is None)

    def _find(self, kid: object) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if isinstance(kid, str) else None

    def _fetch(self, now: float) -> None:
        self._tried_at = now
        issuer = self._options.issuer
        try:
            found = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise ValueError(f"its document is of {str(found.get('issuer'))[:80]!r}")
            uri = str(found["jwks_uri"])
            if urlsplit(uri).scheme != "https" and urlsplit(issuer).scheme == "https":
                raise ValueError(f"its keys are at {uri[:80]!r}, which is not https")
            keys = {}
            for raw in self._get(uri)["keys"]:
                try:
                    key = jwt.PyJWK.from_dict(raw)
                except (jwt.PyJWTError, ValueError, TypeError):
                    continue  # of a kind that is not for signatures, or that is not known here
                if raw.get("use", "sig") == "sig":
                    keys[key.key_id or ""] = key
            self._keys, self._fetched_at, self.error = keys, now, ""
        except _UNUSABLE as error:
            self.error = f"{type(error).__name__}: {error}"[:300]
            _log.warning("the keys of the provider could not be fetched", issuer=issuer, error=self.error)

    def _get(self, url: str) -> Any:
        with self._session.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{url} answered {answer.status_code}")
            body = answer.raw.read(MAX_BYTES + 1, decode_content=True)
        if len(body) > MAX_BYTES:
            raise ValueError(f"{url} is larger than {MAX_BYTES} bytes")
        return json.loads(body.decode())


def _key_named_by(token: str) -> object:
    """The name of the key that the token says it is signed with; None if it says none."""
    try:
        return jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
