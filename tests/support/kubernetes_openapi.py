"""Excerpts of Kubernetes' OpenAPI document: PodSpec and all that it refers to, of the oldest server and of
a new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "kubernetes-openapi"
VERSIONS = sorted(path.stem for path in FOLDER.glob("*.json"))


class Place(NamedTuple):
    """A field of a pod's spec: where it is, its name, its own schema, and the definition that it (or its
    entries) has.
    """

    path: str
    field: str
    schema: dict[str, Any]
    definition: dict[str, Any]


def definitions(version: str) -> dict[str, Any]:
    """The definitions by name, as `version` (such as v1.20.2) has them."""
    found: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_bytes())["definitions"]
    return found


def places(version: str) -> Iterator[Place]:
    """All fields of a pod's spec that merging can come to: none is inside of a list that is of one piece."""
    known = definitions(version)
    waiting = [("spec", "PodSpec")]
    while waiting:
        path, name = waiting.pop()
        for field, schema in known[name].get("properties", {}).items():
            reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
            inside = f"{path}.{field}"
            yield Place(inside, field, schema, known.get(reference, {}))
            if reference and (schema.get("type") != "array" or merge_keys(schema)):
                waiting.append((inside, reference))


def merge_keys(schema: dict[str, Any]) -> tuple[str, ...]:
    """By which fields the document tells the entries of a list apart; () when it is of one piece."""
    if "x-kubernetes-list-map-keys" in schema:
        return tuple(schema["x-kubernetes-list-map-keys"])
    key = schema.get("x-kubernetes-patch-merge-key")
    return (key,) if key else ()
