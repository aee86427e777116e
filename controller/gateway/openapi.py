"""The OpenAPI 3.1 document of the gateway, made from its operations, so that it describes what is served."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from controller import __version__
from controller.endpoint.openapi import (
    PROBLEM,
    REF,
    parameter_object,
    path_parameters,
    response_object,
)
from controller.endpoint.problems import CONTENT_TYPE, ProblemDocument
from controller.endpoint.query import MIN_REVISION, WAIT
from controller.gateway.bodies import NDJSON
from controller.gateway.cross_site import CSRF_HEADER
from controller.gateway.operation import IDEMPOTENCY_KEY, Operation
from controller.gateway.sessions import COOKIE, SECURE_COOKIE

HEADERS = {
    "Tally-Revision": (
        "The revision of the store that the model had applied before it was read; after a write, that of the"
        " write. Send it as min_revision to read what was written.",
        {"type": "integer", "minimum": 0},
    ),
}
_REPEATS = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "description": "Any text that is the same for each copy of one request, and for no other request of the"
    " caller. A copy is answered as the request was that got no answer.",
    "schema": {"type": "string"},
}
_EVERYWHERE = {
    HTTPStatus.UNAUTHORIZED: "The caller has not signed in.",
    HTTPStatus.TOO_MANY_REQUESTS: "The caller asks too often; Retry-After says when to try again.",
    HTTPStatus.SERVICE_UNAVAILABLE: "etcd, or who must be asked about a token, does not answer; or the"
    " gateway has no room. Retry-After says when to try again.",
}
_SECURITY: list[dict[str, list[str]]] = [
    {"token": []},
    {"certificate": []},
    {"session": []},
]


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document, as builtins."""
    kinds = [kind for each in operations for kind in (each.answer, each.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*kinds, ProblemDocument], ref_template=REF)
    by_type = dict(zip(map(str, kinds), schemas, strict=False))  # the last schema is the problem's
    paths: dict[str, Any] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tally gateway",
            "version": __version__,
            "summary": "Submit tasks and see what becomes of them, within the rights of who has signed in.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": _SECURITY,
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in HEADERS.items()
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the gateway, of its OpenID provider, or of Kubernetes.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": SECURE_COOKIE,
                    "description": f"The session of the gateway's page; `{COOKIE}` without TLS. A request"
                    f" that changes something also has `{CSRF_HEADER}`, the `csrf` of GET /session.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A certificate signed by the gateway's `gateway_client_ca_file`.",
                },
            },
        },
    }


def _operation(each: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    problems = {**_EVERYWHERE, **each.problems}
    parameters = [*each.parameters, *((MIN_REVISION, WAIT) if each.reads_model else ())]
    if parameters or each.takes or "{" in each.path:
        problems[HTTPStatus.BAD_REQUEST] = "What was sent is not valid; `parameter` or `field` names it."
    if each.reads_model:
        problems[HTTPStatus.PRECONDITION_FAILED] = "min_revision was not reached within `wait`."
    if each.takes:
        problems.setdefault(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive.")
        problems.setdefault(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is compressed, or not in UTF-8.")
        problems.setdefault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is larger than etcd takes.")
    schema = by_type.get(str(each.answer), {"type": "string"})
    responses = {
        str(status.value): response_object(text, each.content_type, schema, HEADERS)
        for status, text in each.successes.items()
    }
    if "204" in responses:
        del responses["204"]["content"]
    for status, text in sorted(problems.items()):
        responses[str(status.value)] = response_object(text, CONTENT_TYPE, PROBLEM, HEADERS)
    described: dict[str, Any] = {
        "operationId": each.operation,
        "summary": each.summary,
        "parameters": [
            *path_parameters(each.path),
            *map(parameter_object, parameters),
            *([_REPEATS] if each.knows_copies else ()),
        ],
        "responses": responses,
    }
    if each.takes:
        body = by_type.get(str(each.body), {"type": "object"})
        content = {kind: {"schema": body if kind != NDJSON else {"type": "string"}} for kind in each.takes}
        described["requestBody"] = {"required": _is_required(each.body), "content": content}
    return described


def _is_required(kind: Any) -> bool:
    try:
        msgspec.convert({}, kind)
    except msgspec.ValidationError:
        return True
    return kind is None
