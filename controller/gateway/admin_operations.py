"""The operations of the gateway for who may do everything: on pools, features and the leader."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from controller.client.views import ApplyResult
from controller.gateway import admin, bodies
from controller.gateway.api import GatewayApi
from controller.gateway.operation import CallerRequest, Operation

_NOT_FOUND = {HTTPStatus.NOT_FOUND: "There is none of this name."}
_FORBIDDEN = {HTTPStatus.FORBIDDEN: "The caller lacks a verb; `verb` names it."}
_IMPOSSIBLE = {HTTPStatus.CONFLICT: "As things are, this cannot be done; `detail` says why."}


def _admin(
    method: str,
    path: str,
    name: str,
    summary: str,
    handle: Callable[[GatewayApi, CallerRequest], Response],
    body: Any = None,
) -> Operation:
    return Operation(
        method,
        path,
        name,
        summary,
        handle,
        answer=None if method == "DELETE" else dict,
        body=body,
        problems={**_FORBIDDEN, **_NOT_FOUND, **_IMPOSSIBLE},
        reads_model=method == "GET",
        successes={HTTPStatus.NO_CONTENT: "Done."} if method == "DELETE" else {HTTPStatus.OK: "Done."},
    )


ADMIN_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "PUT",
        "/v1/pools/{name}",
        "applyPool",
        "Create a pool, or replace its definition.",
        admin.apply_pool,
        answer=ApplyResult,
        body=dict[str, Any],
        problems={**_FORBIDDEN, **_IMPOSSIBLE},
    ),
    _admin("DELETE", "/v1/pools/{name}", "deletePool", "Remove a pool's definition.", admin.delete_pool),
    _admin("POST", "/v1/pools/{name}/pause", "pausePool", "Admit no task to a pool.", admin.pause),
    _admin("POST", "/v1/pools/{name}/resume", "resumePool", "Admit tasks to a pool again.", admin.resume),
    _admin(
        "POST",
        "/v1/pools/{name}/drain",
        "drainPool",
        "Set a maintenance window, into which nothing runs that is admitted later.",
        admin.drain,
        bodies.DrainBody,
    ),
    _admin(
        "POST",
        "/v1/pools/{name}/undrain",
        "undrainPool",
        "Remove maintenance windows of a pool: one, or all.",
        admin.undrain,
        bodies.UndrainBody,
    ),
    _admin(
        "POST",
        "/v1/leader/step-down",
        "stepDown",
        "End the current term, or the `term` that is meant, and no later one.",
        admin.step_down,
        admin.TermBody,
    ),
    _admin("GET", "/v1/features", "listFeatures", "The features of the installation.", admin.features),
    _admin(
        "POST",
        "/v1/features/{name}/enable",
        "enableFeature",
        "Turn on features: one, or several with commas.",
        admin.enable,
    ),
    _admin("POST", "/v1/features/{name}/drop", "dropFeature", "Turn a feature off.", admin.drop),
)
