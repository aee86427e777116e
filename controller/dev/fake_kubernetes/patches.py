"""The patches of clients: JSON merge patch (RFC 7396), JSON patch (RFC 6902), strategic merge patch."""

from __future__ import annotations

from typing import Any

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.apierrors import Document

_MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "schedulingGates": "name",
    "conditions": "type",
    "volumes": "name",
}
"""Lists of objects that the strategic merge patch merges by a key; all other lists of objects are
replaced.
"""
_SETS = {"finalizers"}
"""Lists of plain values that it unites."""


def apply_patch(content_type: str, document: Document, patch: Any) -> Document:
    """The patched document; `document` itself may be changed. Raises ApiError 400, 415 or 422."""
    kind = content_type.partition(";")[0].strip()
    if kind == "application/json-patch+json":
        return _json_patch(document, patch)
    if not isinstance(patch, dict):
        raise apierrors.bad_request("the patch must be a JSON object")
    if kind == "application/merge-patch+json":
        merged: Document = _merge(document, patch)
        return merged
    if kind == "application/strategic-merge-patch+json":
        return _strategic(document, patch)
    raise apierrors.unsupported_media_type()


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result: Document = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


def _strategic(target: Document, patch: Document) -> Document:
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            target[field] = [each for each in target.get(field, []) if each not in value]
        elif name.startswith("$"):
            continue  # $setElementOrder, $retainKeys: only about order and leftovers
        elif value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            target[name] = _strategic(target.get(name) or {}, value)
        elif isinstance(value, list) and name in _MERGE_KEYS:
            target[name] = _merge_list(target.get(name) or [], value, _MERGE_KEYS[name])
        elif isinstance(value, list) and name in _SETS:
            known = target.get(name) or []
            target[name] = [*known, *(each for each in value if each not in known)]
        else:
            target[name] = value
    return {name: value for name, value in target.items() if not name.startswith("$")}


def _merge_list(target: list[Document], patch: list[Document], key: str) -> list[Document]:
    if any(each.get("$patch") == "replace" for each in patch):
        return [each for each in patch if "$patch" not in each]
    result = list(target)
    for entry in patch:
        index = next((i for i, each in enumerate(result) if each.get(key) == entry.get(key)), None)
        if entry.get("$patch") == "delete":
            result = [each for each in result if each.get(key) != entry.get(key)]
        elif index is None:
            result.append(_strategic({}, entry))
        else:
            result[index] = _strategic(result[index], entry)
    return result


def _json_patch(document: Any, operations: Any) -> Document:
    if not isinstance(operations, list):
        raise apierrors.bad_request("a JSON patch must be a list of operations")
    for operation in operations:
        document = _operate(document, operation)
    result: Document = document
    return result


def _operate(document: Any, operation: Document) -> Any:
    name, path = operation.get("op"), operation.get("path", "")
    if name in {"move", "copy"}:
        value = _value(document, operation.get("from", ""))
        if name == "move":
            document = _operate(document, {"op": "remove", "path": operation["from"]})
        return _operate(document, {"op": "add", "path": path, "value": value})
    if name == "test":
        if _value(document, path) != operation.get("value"):
            raise _unprocessable(f"testing value {path} failed: test failed")
        return document
    if not path:
        return operation.get("value")
    *parents, last = _pointer(path)
    holder = _value(document, parents)
    if isinstance(holder, list):
        _operate_list(holder, name, last, operation)
    elif name in {"add", "replace"} and isinstance(holder, dict) and (name == "add" or last in holder):
        holder[last] = operation.get("value")
    elif name == "remove" and isinstance(holder, dict) and last in holder:
        del holder[last]
    else:
        raise _unprocessable(f"{name} operation does not apply: doc is missing key: {path}: missing value")
    return document


def _operate_list(holder: list[Any], name: object, last: str, operation: Document) -> None:
    index = len(holder) if last == "-" else int(last) if last.isdecimal() else -1
    if name == "add" and 0 <= index <= len(holder):
        holder.insert(index, operation.get("value"))
    elif name == "replace" and 0 <= index < len(holder):
        holder[index] = operation.get("value")
    elif name == "remove" and 0 <= index < len(holder):
        del holder[index]
    else:
        raise _unprocessable(f"{name} operation does not apply: invalid index: {last}")


def _pointer(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _value(document: Any, path: str | list[str]) -> Any:
    for part in _pointer(path) if isinstance(path, str) else path:
        if isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            raise _unprocessable(f"the path {path} does not exist")
    return document


def _unprocessable(why: str) -> apierrors.ApiError:
    return apierrors.ApiError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {why}", details={}
    )
