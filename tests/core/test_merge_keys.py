"""The tables of what is one thing in a pod, held to Kubernetes' own document, of the oldest server and of
a new one.
"""

from __future__ import annotations

import pytest

from controller.core.model.merge_keys import ALTERNATIVES, ATOMIC, DISCRIMINATED, MERGE_KEYS
from tests.support.kubernetes_openapi import VERSIONS, Place, definitions, merge_keys, places

each_version = pytest.mark.parametrize("version", VERSIONS)
NEW = VERSIONS[-1]


def spec_places(version: str) -> list[Place]:
    """All but what is inside the template of a volume claim: that is another object's metadata."""
    found = [place for place in places(version) if ".metadata." not in place.path]
    assert len(found) > 400
    return found


@each_version
def test_lists_are_told_apart_as_kubernetes_does(version: str) -> None:
    """Wherever a field of that name is a list, and wherever it is not in the table, it is of one piece."""
    for place in spec_places(version):
        if place.schema.get("type") == "array":
            assert MERGE_KEYS.get(place.field, ()) == merge_keys(place.schema) or _lacks_keys_in_old(
                place, version
            ), place.path


def _lacks_keys_in_old(place: Place, version: str) -> bool:
    """1.20 names no keys for the ports of an ephemeral container, which no new pod may have."""
    return version == "v1.20.2" and place.path == "spec.ephemeralContainers.ports"


def test_every_row_is_somewhere_in_a_pod() -> None:
    fields = {place.field for place in spec_places(NEW)}
    assert {*MERGE_KEYS, *ALTERNATIVES, *DISCRIMINATED, *ATOMIC} <= fields


@each_version
def test_alternatives_are_kubernetes_own(version: str) -> None:
    """Objects that hold one of several others, and entries of which a patch keeps no other field
    (retainKeys).
    """
    known = definitions(version)
    handlers = {
        field
        for name in ("Probe", "LifecycleHandler" if "LifecycleHandler" in known else "Handler")
        for field, schema in known[name]["properties"].items()
        if "$ref" in schema and field != "port"
    }
    found = {
        "Probe": handlers,
        "Handler": handlers,
        "LifecycleHandler": handlers,
        "EnvVar": {"value", "valueFrom"},
    }
    for place in spec_places(version):
        reference = place.schema.get("$ref") or place.schema.get("items", {}).get("$ref")
        if "retainKeys" in place.schema.get("x-kubernetes-patch-strategy", "") or reference == "EnvVarSource":
            assert ALTERNATIVES[place.field] is None, place.path
        elif reference in found:
            members = ALTERNATIVES[place.field]
            assert members is not None, place.path
            assert found[reference] <= members, place.path
        else:
            assert place.field not in ALTERNATIVES, place.path


@each_version
def test_what_a_type_decides_on(version: str) -> None:
    for place in spec_places(version):
        unions = place.definition.get("x-kubernetes-unions", [])
        has_type = any(union.get("discriminator") == "type" for union in unions)
        assert has_type == (place.field in DISCRIMINATED), place.path


def test_objects_of_one_piece() -> None:
    """A name in the table is of one piece wherever it is an object.

    (The document of 1.20 does not say which are.)
    """
    for place in spec_places(NEW):
        if "$ref" in place.schema:
            assert (place.definition.get("x-kubernetes-map-type") == "atomic") == (place.field in ATOMIC), (
                place.path
            )
