"""Authentication by bearer tokens, and authorization by verb, resource and namespace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.apierrors import ApiError, Document

ANONYMOUS = "system:anonymous"
AUDIENCE = "https://kubernetes.default.svc"
TOKEN = "fake-token"
USER = "system:serviceaccount:tally:tally-controller"


class ResourceAttributes(NamedTuple):
    """A requested action. `resource` includes the subresource, as in pods/log."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    group: str = ""


@dataclass(slots=True)
class AccessControl:
    """Users by token.

    A user may do everything that is not denied. A request without a token may do nothing.
    """

    tokens: dict[str, str] = field(default_factory=lambda: {TOKEN: USER})
    denials: set[tuple[str, str, str, str]] = field(default_factory=set)
    audiences: dict[str, str] = field(default_factory=dict)  # of tokens that are for another than AUDIENCE
    knows_audiences: bool = True  # else it accepts a token that is for any, and names none

    def deny(self, verb: str, resource: str, *, namespace: str = "*", user: str = "*") -> None:
        """Remove a right; "*" means all."""
        self.denials.add((verb, resource, namespace, user))

    def permit(self, verb: str, resource: str, *, namespace: str = "*", user: str = "*") -> None:
        """Undo the same `deny`."""
        self.denials.discard((verb, resource, namespace, user))

    def authenticate(self, authorization: str) -> str:
        """The user's name. Raises ApiError 401."""
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            raise apierrors.unauthorized()
        return self.tokens[token]

    def allows(self, user: str, access: ResourceAttributes) -> bool:
        """Whether the user may."""
        if user == ANONYMOUS:
            return False
        asked = (access.verb, access.resource, access.namespace, user)
        return not any(
            all(want in ("*", have) for want, have in zip(denial, asked, strict=True))
            for denial in self.denials
        )

    def refusal(self, user: str, access: ResourceAttributes) -> ApiError:
        """The 403 for it."""
        resource = access.resource.partition("/")[0]
        where = f'in the namespace "{access.namespace}"' if access.namespace else "at the cluster scope"
        why = (
            f'User "{user}" cannot {access.verb} resource "{access.resource}" in API group "{access.group}"'
            f" {where}"
        )
        return apierrors.forbidden(resource, access.name, why)

    def review(self, user: str, review: Document) -> Document:
        """The answer to a SelfSubjectAccessReview."""
        asked: Document = (review.get("spec") or {}).get("resourceAttributes") or {}
        resource = asked.get("resource", "")
        if asked.get("subresource"):
            resource += f"/{asked['subresource']}"
        access = ResourceAttributes(
            asked.get("verb", ""),
            resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
            asked.get("group", ""),
        )
        kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
        return kind | {"spec": review.get("spec", {}), "status": {"allowed": self.allows(user, access)}}

    def review_token(self, review: Document) -> Document:
        """The answer to a TokenReview, as the API server gives it: groups of a service account, audiences."""
        spec: Document = review.get("spec") or {}
        token = spec.get("token", "")
        asked = spec.get("audiences") or [AUDIENCE]
        user, audience = self.tokens.get(token), self.audiences.get(token, AUDIENCE)
        status: Document = {"user": {}}
        if user is None:
            status["error"] = "[invalid bearer token]"
        elif self.knows_audiences and audience not in asked:
            status["error"] = f'[invalid bearer token, token audiences ["{audience}"] is invalid]'
        else:
            groups = ["system:authenticated"]
            parts = user.split(":")
            if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4:
                groups = ["system:serviceaccounts", f"system:serviceaccounts:{parts[2]}", *groups]
            known = {"username": user, "uid": f"uid-of-{parts[-1]}", "groups": groups}
            status = {"authenticated": True, "user": known}
            if self.knows_audiences:
                status["audiences"] = [audience]
        kind = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}}
        return kind | {"spec": spec, "status": status}
