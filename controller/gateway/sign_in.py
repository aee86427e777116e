"""How a caller proves who it is: a bearer token of a file or of a provider, or a client certificate.

A certificate's common name is the caller's name, and its organizations are the groups, as for Kubernetes
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates). A caller
that sends a token is who the token says, whatever certificate its connection has: a proxy in between may have
one of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from controller.endpoint.reloaded import Reloaded, reloaded_file
from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method, SignInUnavailable, parse_identity_name
from controller.gateway.policy import AccessPolicy, parse_policy
from controller.gateway.tokens import Tokens, parse_tokens

BEARER = "bearer"
RESERVED = ("oidc:", "kubernetes:")  # begin names that a provider gives, also one that is not set here
THREADS = 4  # that ask one provider
MAX_ASKING = 256  # callers that may wait for one provider


class Provider(Protocol):
    """Somebody else who knows tokens, and may have to be asked. Any thread may call it."""

    method: Method
    prefix: str  # begins all its names and groups
    error: str  # why it could not be asked the last time; "" if it could

    def takes(self, token: str) -> bool:
        """Whether it is to be asked about this token. Does not block."""

    def known(self, token: str) -> Identity | None:
        """Who has this token, if nobody has to be asked; None if that is not known. Does not block."""

    def identify(self, token: str) -> Identity | None:
        """Who has this token; None if nobody. May block. Raises SignInUnavailable."""

    def close(self) -> None:
        """Close the connections."""


class SignIn:
    """Finds out who a caller is.

    Each provider has threads of its own: one that does not answer holds up no caller of another, and none
    that is known without asking. The first that takes a token decides about it. Raises InvalidField if the
    file of tokens cannot be used at the start. If it becomes unusable later, no token of it is accepted, and
    who sends one is told why.
    """

    def __init__(
        self, tokens: Path | None, now: Callable[[], float], providers: Sequence[Provider] = ()
    ) -> None:
        self._tokens = tokens_file(tokens) if tokens else None
        self._now = now
        self._providers = [
            (each, ThreadPoolExecutor(THREADS, f"tally-sign-in-{each.method}")) for each in providers
        ]
        self._asking = Counter[Method]()

    async def identify(self, authorization: str, certificate: Mapping[str, Any]) -> Identity | None:
        """Who the caller is; None if it has not proved to be anybody. Raises SignInUnavailable."""
        if not authorization:
            return self._of_certificate(certificate) if certificate else None
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != BEARER:
            return None
        known = self._tokens.current().identify(token, self._now()) if self._tokens is not None else None
        if known is not None:
            return known
        for provider, threads in self._providers:
            if provider.takes(token):
                # who is known does not wait behind tokens that somebody must be asked about
                return provider.known(token) or await self._ask(provider, threads, token)
        if self._tokens is not None and self._tokens.error:
            raise SignInUnavailable("the gateway's file of tokens cannot be used now: ask who keeps it")
        return None

    def problems(self) -> dict[str, str]:
        """Why each file and provider cannot be used now, by setting or method; "" if it can."""
        found = {str(each.method): each.error for each, _ in self._providers}
        if self._tokens is not None:
            self._tokens.current()
        found["gateway_tokens_file"] = self._tokens.error if self._tokens is not None else ""
        return found

    def close(self) -> None:
        """Ask nobody any more."""
        for provider, threads in self._providers:
            threads.shutdown(wait=False, cancel_futures=True)
            provider.close()

    def _of_certificate(self, certificate: Mapping[str, Any]) -> Identity | None:
        names = [pair for part in certificate.get("subject", ()) for pair in part]
        common = [value for kind, value in names if kind == "commonName"]
        groups = [value for kind, value in names if kind == "organizationName"]
        prefixes = tuple(each.prefix for each, _ in self._providers if each.prefix)
        if len(common) != 1 or any(name.startswith((*RESERVED, *prefixes)) for name in (*common, *groups)):
            return None  # nobody, several, or a name that is a provider's to give
        try:
            return Identity(
                parse_identity_name(common[0], "commonName"),
                frozenset(parse_identity_name(group, "organizationName") for group in groups),
                Method.CERTIFICATE,
            )
        except InvalidField:
            return None

    async def _ask(self, provider: Provider, threads: ThreadPoolExecutor, token: str) -> Identity | None:
        if self._asking[provider.method] >= MAX_ASKING:
            raise SignInUnavailable(f"{MAX_ASKING} callers already wait for {provider.method}")
        self._asking[provider.method] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, provider.identify, token)
        finally:
            self._asking[provider.method] -= 1


def tokens_file(file: Path) -> Reloaded[Tokens]:
    """The tokens of a file, read again when it changes. If it becomes unusable, no token is accepted.

    Raises InvalidField.
    """
    return reloaded_file(file, "gateway_tokens_file", parse_tokens, lambda _: Tokens({}))


def policy_file(file: Path) -> Reloaded[AccessPolicy]:
    """The policy of a file, read again when it changes. If it becomes unusable, the old one stays in force.

    Raises InvalidField.
    """
    return reloaded_file(file, "gateway_policy_file", parse_policy, lambda before: before)
