"""Pod templates: their valid shape, and how one is merged over another, as Kubernetes merges.

Pure: no template is changed.

Mappings are merged. Entries of lists are identified by Kubernetes' own merge keys (`merge_keys`), and merged;
other lists are replaced. Among alternatives (`value` and `valueFrom`, the types of a volume, the handlers of
a probe), the template above decides. Null removes what is below.

Order of merged lists: the entries above keep their order, and so do those that are only below. An entry of
both keeps its position from below, after all entries that precede it above. So a variable can refer to those
before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.core.model.fencing import RESERVED
from controller.core.model.merge_keys import MERGE_KEYS, identity, without_alternatives
from controller.errors import InvalidField

Document = dict[str, Any]

MAIN = "task"
"""Name of the container that Tally makes from the task's spec. Other containers in the pod are the user's."""


def overlay(below: Any, above: Any, field: str = "") -> Any:
    """`above` merged over `below`; both are values of `field`, or entries of the list `field`.

    See the module's docstring.
    """
    if isinstance(above, Mapping):
        kept = without_alternatives(below, above, field) if isinstance(below, Mapping) else {}
        merged = {name: value for name, value in kept.items() if name not in above or above[name] is not None}
        for name, value in above.items():
            if value is not None:
                merged[name] = overlay(merged.get(name), value, name)
        return merged
    if isinstance(above, list):
        if field not in MERGE_KEYS:
            return list(above)
        return _merged_list(below if isinstance(below, list) else [], above, field)
    return above


def _merged_list(below: list[Any], above: list[Any], field: str) -> list[Any]:
    """Merge two lists that `check_template` has passed: each entry has an identity of its own."""
    under = {identity(field, entry): entry for entry in below}
    over = {identity(field, entry): entry for entry in above}
    to_come = list(over)
    merged: list[Any] = []

    def take() -> None:
        key = to_come.pop(0)
        merged.append(overlay(under.get(key), over[key], field))

    for key, entry in under.items():
        if key not in over:
            merged.append(entry)
        while key in to_come:
            take()
    while to_come:
        take()
    return merged


def check_template(template: Document, path: str) -> None:
    """Raise InvalidField if a template cannot be merged, or sets the fence. The error names the field."""
    for name, value in template.items():
        if name not in ("metadata", "spec") or not isinstance(value, Mapping):
            raise InvalidField(
                f"{path}.{name}",
                "a pod template has only `metadata` (labels, annotations) and `spec`, both mappings",
            )
    for name, value in template.get("metadata", {}).items():
        if name not in ("labels", "annotations") or not isinstance(value, Mapping):
            raise InvalidField(
                f"{path}.metadata.{name}",
                "the metadata of a template has only `labels` and `annotations`, both mappings",
            )
        for key in value if name == "labels" else ():
            # what a pod is to Tally, such as a tombstone of an attempt that never ran
            if str(key).startswith("tally.dev/"):
                raise InvalidField(f"{path}.metadata.labels.{key}", "is set by Tally only: remove it")
    spec = template.get("spec", {})
    for name in ("containers", "initContainers"):
        containers = spec.get(name, [])
        if not isinstance(containers, list) or not all(_is_named(each) for each in containers):
            problem = f"expected a list of containers with names; the task's own is named {MAIN}"
            raise InvalidField(f"{path}.spec.{name}", problem)
        for each in containers:
            _check_runs_once(each, f"{path}.spec.{name}[{each['name']}]", is_init=name == "initContainers")
    _check_lists(spec, "", f"{path}.spec")


def _check_runs_once(container: Mapping[str, Any], path: str, *, is_init: bool) -> None:
    """An attempt runs once: its containers are not started again, save sidecars, which others wait for."""
    policy = container.get("restartPolicy")
    if policy is not None and not (is_init and policy == "Always"):
        raise InvalidField(f"{path}.restartPolicy", "is set by Tally (an attempt runs once): remove it")
    if container.get("restartPolicyRules"):
        raise InvalidField(f"{path}.restartPolicyRules", "is not used (an attempt runs once): remove it")


def _is_named(container: object) -> bool:
    return isinstance(container, Mapping) and isinstance(container.get("name"), str)


def _check_lists(value: object, field: str, path: str) -> None:
    """Check that each entry of a list that is merged has its merge keys, and that no two have the same."""
    if field not in MERGE_KEYS:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                _check_lists(inner, name, f"{path}.{name}")
        return
    if value is not None and not isinstance(value, list):
        raise InvalidField(path, f"expected a list of mappings, each with {_keys(field)}")
    seen: set[tuple[str | int, ...]] = set()
    for index, entry in enumerate(value if isinstance(value, list) else ()):
        key = identity(field, entry)
        if key is None:
            raise InvalidField(
                f"{path}[{index}]", f"expected a mapping with {_keys(field)}, which tells the entries apart"
            )
        inside = f"{path}[{'/'.join(map(str, key))}]"
        if key in seen:
            raise InvalidField(inside, "is given twice: keep one")
        if field == "env" and entry["name"] in RESERVED:
            raise InvalidField(inside, f"is set by Tally ({RESERVED[entry['name']]}): remove it")
        seen.add(key)
        for name, inner in entry.items():
            _check_lists(inner, name, f"{inside}.{name}")


def _keys(field: str) -> str:
    return " and ".join(MERGE_KEYS[field])
