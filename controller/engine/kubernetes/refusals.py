"""Translates an API server's refusals for an attempt: a message, a reason, and whether it is transient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.kubernetes.api import ApiRefused

FORBIDDEN_RETRY_SECONDS = 10.0


def to_refusal(error: ApiRefused, namespace: str) -> AttemptRefused:
    """The refusal of a pod's creation. It is transient if it is for a quota, a right or a namespace."""
    words = str(error)
    if error.code == 403:
        return _of_forbidden(words, namespace)
    if error.is_absence("namespaces", namespace):
        return AttemptRefused(
            "NamespaceNotFound",
            f"{words}: create namespace {namespace}, or change the pool's",
            transient=True,
        )
    if error.code in (400, 422) and "denied the request" not in words:
        fields = f" (fields: {', '.join(error.fields)})" if error.fields else ""
        return AttemptRefused("InvalidPod", f"Kubernetes refuses the pod{fields}: {words}")
    return AttemptRefused("AdmissionDenied", words)


# of a namespace, or a quota, that is seconds old
_SOON = ('serviceaccount "default" not found', "status unknown for quota", "not yet ready to handle request")


def _of_forbidden(words: str, namespace: str) -> AttemptRefused:
    """The refusal for a 403, the code of all refusals by admission; the message tells them apart."""
    if "exceeded quota" in words:
        return AttemptRefused("QuotaExceeded", words, transient=True)
    if "is being terminated" in words:
        return AttemptRefused("NamespaceTerminating", words, transient=True)
    if any(each in words for each in _SOON):
        return AttemptRefused("AdmissionDenied", words, transient=True)
    if "violates PodSecurity" in words:
        return AttemptRefused("PodSecurityViolation", words)
    if "cannot create resource" in words:
        rule = (
            f"a Role in namespace {namespace} must allow the verb create on pods; `tally check` lists all"
            " missing rights"
        )
        return AttemptRefused("Forbidden", f"{words}: {rule}", transient=True)
    return AttemptRefused("AdmissionDenied", words)


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Raise EngineUnavailable for refusals of calls other than a creation: nothing may be concluded."""
    try:
        yield
    except ApiRefused as error:
        raise EngineUnavailable(f"{what}: {error.code} {error}", FORBIDDEN_RETRY_SECONDS) from error
