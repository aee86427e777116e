"""The handlers for who may do everything: pools, features, and the leader."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response

from controller.core.model import codec
from controller.endpoint.query import MAX_REVISION
from controller.gateway import bodies
from controller.gateway.api import GatewayApi, answer
from controller.gateway.operation import CallerRequest


def apply_pool(api: GatewayApi, ask: CallerRequest) -> Response:
    """Create a pool, or replace its definition."""
    definition = bodies.definition_of(ask.path["name"], ask.body)
    return answer(api.writing.admin(ask.caller, "the definitions of pools").apply_pool(definition))


def delete_pool(api: GatewayApi, ask: CallerRequest) -> Response:
    """Remove a pool's definition."""
    api.writing.admin(ask.caller, "the definitions of pools").delete_pool(ask.path["name"])
    return Response(status_code=204)


def pause(api: GatewayApi, ask: CallerRequest) -> Response:
    """Admit no task to a pool."""
    return answer(
        {"changed": api.writing.admin(ask.caller, "pausing pools").admission.pause(ask.path["name"])}
    )


def resume(api: GatewayApi, ask: CallerRequest) -> Response:
    """Admit tasks to a pool again."""
    return answer(
        {"changed": api.writing.admin(ask.caller, "pausing pools").admission.resume(ask.path["name"])}
    )


def drain(api: GatewayApi, ask: CallerRequest) -> Response:
    """Set a maintenance window of a pool."""
    client, body = api.writing.admin(ask.caller, "maintenance windows"), ask.body
    by = ask.caller.identity.name
    name, window = ask.path["name"], (body.starts_at, body.ends_at)
    return answer(codec.to_builtins(client.maintenance.drain(name, *window, reason=body.reason, by=by)))


def undrain(api: GatewayApi, ask: CallerRequest) -> Response:
    """Remove maintenance windows of a pool."""
    client = api.writing.admin(ask.caller, "maintenance windows")
    removed = client.maintenance.undrain(ask.path["name"], ask.body.starts_at)
    return answer({"items": [codec.to_builtins(window) for window in removed]})


def features(api: GatewayApi, ask: CallerRequest) -> Response:
    """The features of the installation."""
    return answer({"items": codec.to_builtins(api.writing.admin(ask.caller, "features").features.all())})


def enable(api: GatewayApi, ask: CallerRequest) -> Response:
    """Turn features on: all or none."""
    turned_on = api.writing.admin(ask.caller, "features").features.enable(*ask.path["name"].split(","))
    return answer({"changed": bool(turned_on), "turned_on": turned_on})


def drop(api: GatewayApi, ask: CallerRequest) -> Response:
    """Turn a feature off."""
    return answer({"changed": api.writing.admin(ask.caller, "features").features.drop(ask.path["name"])})


class TermBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `term` that is to end, and no later one; 0: whichever is the current one."""

    term: Annotated[int, Meta(ge=0, le=MAX_REVISION)] = 0


def step_down(api: GatewayApi, ask: CallerRequest) -> Response:
    """End the current term, or the one that is meant."""
    replicas, term = api.writing.admin(ask.caller, "ending a term").replicas, ask.body.term
    if not term:
        return answer(codec.to_builtins(replicas.step_down()))
    replicas.end_term(term)
    return answer({"term": term})
