"""The OpenAPI 3.1 document, made from the route table, so that it always describes what is served."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from controller import __version__
from controller.endpoint.problems import CONTENT_TYPE, ProblemDocument
from controller.endpoint.query import MIN_REVISION, WAIT, Parameter
from controller.endpoint.route import Route

HEADERS = {
    "Tally-Revision": (
        "The store's revision that the model had applied before it was read. Resume events after it. What is"
        " shown may be newer: send the largest `revision` of it as min_revision to read nothing older.",
        {"type": "integer", "minimum": 0},
    ),
    "Tally-Role": ("The role of this replica.", {"type": "string", "enum": ["leader", "follower"]}),
    "Tally-Leader-Known": (
        "Whether this replica knows of a leader.",
        {"type": "string", "enum": ["true", "false"]},
    ),
    "Tally-Staleness-Seconds": (
        "Seconds since the model was last known to be current.",
        {"type": "number", "minimum": 0},
    ),
}
REF = "#/components/schemas/{name}"
PROBLEM = {"$ref": REF.format(name=ProblemDocument.__name__)}
_ANY_OF: list[dict[str, list[str]]] = [
    {},
    {"token": []},
    {"password": []},
    {"certificate": []},
]  # {}: a replica may be configured to need no credentials
_UNAUTHORIZED = {
    "description": "The replica requires a token or a certificate, and the request has no valid one.",
    "headers": {
        "WWW-Authenticate": {
            "description": "The schemes in which a token may be sent.",
            "schema": {"type": "string"},
        }
    },
    "content": {CONTENT_TYPE: {"schema": PROBLEM}},
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document, as builtins."""
    answers = [route.answer for route in routes if route.answer is not None]
    schemas, components = msgspec.json.schema_components([*answers, ProblemDocument], ref_template=REF)
    by_type = dict(zip(map(str, answers), schemas, strict=False))  # the last schema is the problem's
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tally status",
            "version": __version__,
            "summary": "What a replica knows of tasks, pools and leadership. Read-only.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {route.path: {"get": _operation(route, by_type.get(str(route.answer)))} for route in routes},
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in HEADERS.items()
            },
            "responses": {"Unauthorized": _UNAUTHORIZED},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the replica's `status_token_file`.",
                },
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token as the password, with any user name.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A certificate signed by the replica's `status_client_ca_file`.",
                },
            },
        },
    }


def _operation(route: Route, schema: dict[str, Any] | None) -> dict[str, Any]:
    problems = dict(route.problems)
    parameters = [*route.parameters, *((MIN_REVISION, WAIT) if route.reads_model else ())]
    if parameters:
        problems[HTTPStatus.BAD_REQUEST] = "A parameter is unknown or invalid; `parameter` names it."
    if route.reads_model:
        problems[HTTPStatus.PRECONDITION_FAILED] = "min_revision was not reached within `wait`."
        problems.setdefault(HTTPStatus.SERVICE_UNAVAILABLE, "The replica has not loaded the records yet.")
    responses = {
        "200": response_object("The requested document.", route.content_type, schema or {"type": "string"})
    }
    for status, text in sorted(problems.items()):
        responses[str(status.value)] = response_object(text, CONTENT_TYPE, PROBLEM)
    if route.moves:
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
        responses["307"] = {"description": route.moves, "headers": headers}
    if not route.is_probe:
        responses["401"] = {"$ref": "#/components/responses/Unauthorized"}
    return {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": path_parameters(route.path) + [parameter_object(parameter) for parameter in parameters],
        "responses": responses,
        "security": [] if route.is_probe else _ANY_OF,
    }


def parameter_object(parameter: Parameter) -> dict[str, Any]:
    """A parameter of the query."""
    described = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }
    return {**described, "explode": False} if parameter.schema["type"] == "array" else described


def path_parameters(path: str) -> list[dict[str, Any]]:
    """The parameters that a path names."""
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def response_object(
    text: str, content_type: str, schema: dict[str, Any], headers: Iterable[str] = HEADERS
) -> dict[str, Any]:
    """An answer, and the headers that it has."""
    return {
        "description": text,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {content_type.partition(";")[0]: {"schema": schema}},
    }
