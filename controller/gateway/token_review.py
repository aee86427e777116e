"""Callers with a token of a Kubernetes service account, or any other that the API server accepts.

The API server is asked with a TokenReview
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#service-account-tokens), which the
gateway's own account must be allowed to create: the ClusterRole `system:auth-delegator` says so. An answer
counts for a time, so that the API server is not asked for each request: a token that is revoked meanwhile
counts until then.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

import msgspec
from cachetools import TTLCache
from msgspec import Struct

from controller.engine.base import EngineError, EngineUnavailable
from controller.engine.kubernetes.api import KubernetesApi
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE
from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method, SignInUnavailable, parse_identity_name

PREFIX = "kubernetes:"
"""Begins all names and groups, so that none of them can be that of another way to sign in."""

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCEPTED_SECONDS = 60.0  # for which an answer counts
REFUSED_SECONDS = 10.0
CACHED = 4096  # answers of each kind
MAX_TOKEN_BYTES = 16 * 1024


class _User(Struct, frozen=True):
    username: str = ""
    groups: list[str] | None = None


class _ReviewStatus(Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] | None = None


class _TokenReview(Struct, frozen=True):
    status: _ReviewStatus


class TokenReviews:
    """See the module's docstring. Any thread may call it; a call may wait for the API server.

    `audiences`: a token must be for one of these; none: for the API server itself.
    """

    method = Method.KUBERNETES
    prefix = PREFIX

    def __init__(self, api: KubernetesApi, audiences: Sequence[str], boottime: Callable[[], float]) -> None:
        self._api = api
        self._audiences = list(audiences)
        self._lock = threading.Lock()
        self._accepted = TTLCache[bytes, Identity](CACHED, ACCEPTED_SECONDS, boottime)
        self._refused = TTLCache[bytes, bool](CACHED, REFUSED_SECONDS, boottime)
        self.error = ""  # why the last review failed

    def takes(self, token: str) -> bool:
        """Whether the token may be one of these: what is no JWT is none."""
        return token.count(".") == 2 and len(token) <= MAX_TOKEN_BYTES

    def known(self, token: str) -> Identity | None:
        """Who the caller is, if the server's answer still counts and is yes."""
        with self._lock:
            return self._accepted.get(_digest(token))

    def identify(self, token: str) -> Identity | None:
        """Who the caller is; None if the server does not accept the token. Raises SignInUnavailable."""
        digest = _digest(token)
        with self._lock:
            if digest in self._refused:
                return None
            if (known := self._accepted.get(digest)) is not None:
                return known
        identity = self._identity(self._review(token))
        with self._lock:
            if identity is None:
                self._refused[digest] = True
            else:
                self._accepted[digest] = identity
        return identity

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _review(self, token: str) -> _ReviewStatus:
        spec = {"token": token, **({"audiences": self._audiences} if self._audiences else {})}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            answer = self._api.call("POST", PATH, body=body)
            status = msgspec.json.decode(answer, type=_TokenReview).status
        except (EngineError, EngineUnavailable, *NOT_JSON_OF_ITS_TYPE) as error:
            self.error = f"{type(error).__name__}: {error}"[:300]
            raise SignInUnavailable(f"Kubernetes could not be asked about a token: {self.error}") from error
        self.error = ""
        return status

    def _identity(self, status: _ReviewStatus) -> Identity | None:
        # a server that does not know of audiences accepts what is for any, and names none
        is_for_us = not self._audiences or any(each in self._audiences for each in status.audiences or ())
        if not (status.authenticated and is_for_us):
            return None
        try:
            groups = [parse_identity_name(PREFIX + group, "groups") for group in status.user.groups or ()]
            return Identity(
                parse_identity_name(PREFIX + status.user.username, "username"),
                frozenset(groups),
                Method.KUBERNETES,
            )
        except InvalidField:
            return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
