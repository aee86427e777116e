"""How a caller proves who it is: a bearer token, or a client certificate.

A certificate's common name is the caller's name, and its organizations are the groups, as for Kubernetes
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates). A caller
that sends a token is who the token says, whatever certificate its connection has: a proxy in between may have
one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from controller.endpoint.reloaded import Reloaded
from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method, parse_identity_name
from controller.gateway.policy import AccessPolicy, parse_policy
from controller.gateway.tokens import Tokens, parse_tokens

BEARER = "bearer"


class SignIn:
    """Finds out who a caller is.

    Raises InvalidField if the file of tokens cannot be used at the start. If it becomes unusable later, no
    token is accepted.
    """

    def __init__(self, tokens: Path | None, now: Callable[[], float], certificate_prefix: str = "") -> None:
        self._tokens = tokens_file(tokens) if tokens else None
        self._now = now
        self._certificate_prefix = certificate_prefix

    def identify(self, authorization: str, certificate: Mapping[str, Any]) -> Identity | None:
        """Who the caller is; None if it has not proved to be anybody."""
        if authorization:
            scheme, _, token = authorization.strip().partition(" ")
            if scheme.lower() != BEARER or self._tokens is None:
                return None
            return self._tokens.current().identify(token.strip(), self._now())
        return self._of_certificate(certificate) if certificate else None

    def problems(self) -> dict[str, str]:
        """What cannot be used now, and why."""
        return {"tokens_file": self._tokens.error} if self._tokens is not None and self._tokens.error else {}

    def _of_certificate(self, certificate: Mapping[str, Any]) -> Identity | None:
        names = [pair for part in certificate.get("subject", ()) for pair in part]
        prefix = self._certificate_prefix
        try:
            [name] = [value for kind, value in names if kind == "commonName"]
            groups = [value for kind, value in names if kind == "organizationName"]
            return Identity(
                parse_identity_name(prefix + name, "commonName"),
                frozenset(parse_identity_name(prefix + group, "organizationName") for group in groups),
                Method.CERTIFICATE,
            )
        except ValueError:  # no common name, or several
            return None
        except InvalidField:
            return None


def tokens_file(file: Path) -> Reloaded[Tokens]:
    """The tokens of a file, read again when it changes. If it becomes unusable, no token is accepted.

    Raises InvalidField.
    """
    return _file(file, "gateway_tokens_file", parse_tokens, lambda _: Tokens({}))


def policy_file(file: Path) -> Reloaded[AccessPolicy]:
    """The policy of a file, read again when it changes. If it becomes unusable, the old one stays in force.

    Raises InvalidField.
    """
    return _file(file, "gateway_policy_file", parse_policy, lambda before: before)


def _file(
    file: Path, field: str, parse: Callable[[str], Any], on_failure: Callable[[Any], Any]
) -> Reloaded[Any]:
    def load() -> Any:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidField(field, f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidField(field, f"{file} is not text in UTF-8: {error}") from None
        try:
            return parse(text)
        except InvalidField as error:
            raise InvalidField(field, f"{file}: {error}") from None

    files: Iterable[Path] = [file]
    return Reloaded(files, load, on_failure)
