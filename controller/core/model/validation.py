"""Specs and pools from a user's mapping: one code for the command line, the library and the leader.

`parse_spec` and `parse_pool` take the content of a YAML or JSON document. They raise InvalidField with the
path of the first invalid field. Single values are parsed in `scalars`.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

import msgspec

from controller.core.model.after import parse_after
from controller.core.model.arrays import MAX_ARRAY_ID, parse_array
from controller.core.model.capacity_fields import parse_capacity_from, with_source
from controller.core.model.demand import pod_requests
from controller.core.model.fencing import RESERVED
from controller.core.model.fields import Parse, mapping, one_of, read_fields
from controller.core.model.gangs import START_SECONDS
from controller.core.model.maintenance import parse_windows
from controller.core.model.notify_fields import parse_notify
from controller.core.model.pod_merge import check_template, overlay
from controller.core.model.requests import MOST_PRIORITY
from controller.core.model.resources import Vector
from controller.core.model.scalars import (
    in_range,
    is_number,
    json_problem,
    parse_boolean,
    parse_duration,
    parse_integer,
    parse_name,
    parse_strings,
    parse_text,
    positive_duration,
    shown,
)
from controller.core.model.sharing_fields import parse_preemption, parse_sharing
from controller.core.model.task import (
    Deadlines,
    OnLost,
    Policy,
    Pool,
    Reserve,
    RetryPolicy,
    RetryRule,
    Spec,
)
from controller.errors import InvalidField

MAX_ID = 52  # "<id>-<attempt>" must be a DNS label of 63 characters; the attempt may have ten digits
MAX_SPEC_BYTES = 256 * 1024  # etcd accepts 1.5 MiB in a request; a spec is read again and again
MAX_ATTEMPTS = 1000
# levels of mappings and lists in a pod template; its encoders must not run out of stack
MAX_NESTING = 50

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ACTIONS = ("retry", "fail", "ignore")
_OF_ARRAY = "fail_fast", "gang", "max_running", "roles", "size"


def parse_spec(raw: object) -> Spec:
    """The spec that a mapping describes. Raises InvalidField, naming the field."""
    spec = parse_stored_spec(raw)
    size = len(msgspec.json.encode(spec, enc_hook=_plain))
    if size > MAX_SPEC_BYTES:
        raise InvalidField(
            "",
            f"the spec has {size:,} bytes, but at most {MAX_SPEC_BYTES:,} are allowed: shorten env, args or"
            " pod_template",
        )
    return spec


def parse_stored_spec(raw: object) -> Spec:
    """As `parse_spec`, for a mapping whose size is known to be within the limit."""
    fields = mapping(raw, "", "a task is a mapping with at least `id` and `command` or `image`")
    if fields.get("id") is None:
        parse_name(None, "id", "a task id")
    if name := next((name for name in _OF_ARRAY if name in fields), ""):
        raise InvalidField(name, f"is a field of an array: write `array: {{{name}: …}}`")
    spec = Spec(**(_UNSAID | read_fields(fields, _SPEC)))
    roles = spec.array.roles if spec.array is not None and spec.array.gang else ()
    for number, role in enumerate(roles):
        if not (spec.command if role.command is None else role.command) and not spec.image:
            problem = "give a command to run, or an image that has one"
            raise InvalidField(f"array.roles[{number}].command", problem)
    if not spec.command and not spec.image and not roles:
        raise InvalidField("command", "give a command to run, or an image that has one")
    if spec.args and not spec.command and not spec.image:
        raise InvalidField("args", "needs a command, or an image that has one")
    if any(dependency.task == spec.id for dependency in spec.after):
        raise InvalidField("after", f"names {spec.id} itself: a task cannot wait for itself")
    for number, dependency in enumerate(spec.after):
        if dependency.is_paired:
            _check_paired(spec, f"after[{number}].index")
    if spec.array is not None:
        parse_name(spec.id, "id", "the id of an array, from which its members are named,", MAX_ARRAY_ID)
        if spec.array.gang and spec.deadlines.start_seconds is None:
            deadlines = msgspec.structs.replace(spec.deadlines, start_seconds=START_SECONDS)
            spec = msgspec.structs.replace(spec, deadlines=deadlines)
    return spec


def _check_paired(spec: Spec, field: str) -> None:
    if spec.array is None:
        raise InvalidField(field, "is `same`, but the task is no array: leave it out, or give it an `array`")
    if spec.array.gang:
        raise InvalidField(field, "is `same`, but a gang begins whole: leave it out, to wait for all members")
    if spec.deadlines.queue_seconds is not None:
        problem = "is `same`, so members begin one by one: leave out `deadlines.queue`"
        raise InvalidField(field, problem)


def parse_pool(raw: object) -> Pool:
    """The pool that a mapping describes. Raises InvalidField, naming the field."""
    fields = dict(mapping(raw, "", "a pool is a mapping with `name` and `capacity`"))
    for of_the_store in ("version", "op"):
        fields.pop(of_the_store, None)
    fields = with_source(fields)
    if fields.get("name") is None:
        parse_name(None, "name", "a pool's name")
    pool = Pool(**read_fields(fields, _POOL))
    if pool.preemption is not None and pool.sharing is None:
        raise InvalidField("preemption", "needs `sharing`: add `sharing: {}` to serve all owners alike")
    return pool


def _json_object(raw: object, field: str, problem: str) -> dict[str, Any]:
    """A mapping as it will be read back from the store: a value that JSON lacks (a date) becomes text."""
    return _decoded(_as_json(raw, field, problem), field)


def _as_json(raw: object, field: str, problem: str) -> bytes:
    try:
        return msgspec.json.encode(mapping(raw, field, problem))
    except (TypeError, OverflowError) as error:
        raise InvalidField(field, f"cannot be stored as JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, f"cannot be stored as JSON: {json_problem(error)}") from None


def _decoded(text: bytes, field: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, f"cannot be stored as JSON: {error}") from None
    if _is_deeper_than(MAX_NESTING, plain):
        raise InvalidField(field, f"is nested more than {MAX_NESTING} levels deep")
    return plain


def _is_deeper_than(levels: int, value: object) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper_than(levels - 1, one) for one in inner)


def _pool(raw: object, field: str) -> str:
    return sys.intern(parse_name(raw, field, "a pool's name"))


def _owner(raw: object, field: str) -> str:
    return sys.intern(parse_name(raw, field, "an owner's name"))


def _main_container(raw: object, field: str) -> str:
    # "" is how an unnamed one is printed
    return "" if raw == "" else parse_name(raw, field, "a container's name")


def _image(raw: object, field: str) -> str:
    image = parse_text(raw, field)
    if image and image.split() != [image]:
        raise InvalidField(field, f"{image!r} contains white space")
    return sys.intern(image)


def _env(raw: object, field: str) -> dict[str, str]:
    env = {}
    for name, value in mapping(raw, field, "expected a mapping of names to strings").items():
        path = f"{field}.{name}"
        if _ENV_NAME.fullmatch(name) is None:
            raise InvalidField(
                path[:100],
                "is not a variable name: use letters, digits and '_', and do not begin with a digit",
            )
        if name in RESERVED:
            raise InvalidField(path, f"is set by Tally ({RESERVED[name]}): remove it")
        env[name] = str(value) if isinstance(value, int) and is_number(value) else parse_text(value, path)
    return env


def parse_labels(raw: object, field: str) -> dict[str, str]:
    labels = {}
    for key, value in mapping(raw, field, "expected a mapping of keys to strings").items():
        path = f"{field}.{key}"
        if _LABEL_KEY.fullmatch(key) is None:
            raise InvalidField(path[:100], "is not a label key ([prefix/]name, as in Kubernetes)")
        if _LABEL_VALUE.fullmatch(parse_text(value, path)) is None:
            raise InvalidField(path, f"{value[:80]!r} is not a label value (at most 63 of A-Z a-z 0-9 - _ .)")
        labels[key] = value
    return labels


def _retry(raw: object, field: str) -> RetryPolicy:
    if isinstance(raw, RetryPolicy):
        return raw
    if raw == {}:
        return _RETRY_DEFAULT
    fields = dict(mapping(raw, field, "expected a mapping such as {max_attempts: 3, backoff_seconds: 10}"))
    if "max" in fields:  # the short name for max_seconds
        fields.setdefault("max_seconds", fields.pop("max"))
    return RetryPolicy(**read_fields(fields, _RETRY, f"{field}."))


def _factor(raw: object, field: str) -> float:
    if not is_number(raw):
        raise InvalidField(field, f"is {shown(raw)}, expected a number from 1 to 100")
    return in_range(float(raw), field, 1.0, 100.0)


def _rules(raw: object, field: str) -> tuple[RetryRule, ...]:
    if not isinstance(raw, list | tuple):
        raise InvalidField(field, "expected a list of rules, such as [{exit_codes: [2], action: fail}]")
    rules = []
    for index, item in enumerate(raw):
        path = f"{field}[{index}]"
        fields = mapping(item, path, "expected a mapping such as {exit_codes: [2], action: fail}")
        rules.append(RetryRule(**read_fields({"action": "", **fields}, _RULE, f"{path}.")))
    return tuple(rules)


def _action(raw: object, field: str) -> str:
    if raw not in _ACTIONS:
        raise InvalidField(field, f"is {shown(raw)}, expected one of {', '.join(_ACTIONS)}")
    return str(raw)


def _exit_codes(raw: object, field: str) -> tuple[int, ...]:
    if not isinstance(raw, list | tuple):
        raise InvalidField(field, "expected a list of exit codes, such as [1, 2]")
    return tuple(parse_integer(item, f"{field}[{index}]", 0, 255) for index, item in enumerate(raw))


def _deadlines(raw: object, field: str) -> Deadlines:
    if raw == {}:
        return _DEADLINES_DEFAULT
    fields = dict(mapping(raw, field, "expected a mapping such as {queue: 1h, start: 5m, run: 2h}"))
    for short in ("queue", "start", "run"):
        if short in fields:
            if f"{short}_seconds" in fields:
                raise InvalidField(
                    f"{field}.{short}", f"is given twice, as {short} and as {short}_seconds: keep one"
                )
            fields[f"{short}_seconds"] = fields.pop(short)
    return Deadlines(**read_fields(fields, _DEADLINES, f"{field}."))


def _on_lost(raw: object, field: str) -> OnLost:
    if raw in ("hold", {}):
        return _ON_LOST_DEFAULT
    fields = dict(mapping(raw, field, "expected `hold`, or a mapping such as {replace_after: 10m}"))
    if "replace_after" in fields:
        fields["replace_after_seconds"] = fields.pop("replace_after")
    return OnLost(**read_fields(fields, _ON_LOST, f"{field}."))


def _plain(value: object) -> object:
    if isinstance(value, Vector):
        return value.format()
    raise TypeError(f"cannot encode {type(value)}")


def _named(what: str, limit: int = 63) -> Parse:
    return lambda raw, field: parse_name(raw, field, what, limit)


def _integer_within(low: int, high: int) -> Parse:
    return lambda raw, field: parse_integer(raw, field, low, high)


def _template(raw: object, field: str) -> dict[str, Any]:
    return _checked_template(_as_json(raw, field, "expected a pod template"), field)


@lru_cache(maxsize=64)  # the tasks of one user have few different ones: each is checked once, and kept once
def _checked_template(text: bytes, field: str) -> dict[str, Any]:
    template = _decoded(text, field)
    check_template(template, field)
    pod_requests(overlay({}, template).get("spec", {}), f"{field}.spec")
    return template


def _engine_options(raw: object, field: str) -> dict[str, Any]:
    """The engine interprets its options, except for the pod template, which decides on what is held."""
    options = _json_object(raw, field, "expected a mapping")
    if "pod_template" in options:
        _template(options["pod_template"], f"{field}.pod_template")
    return options


_SPEC: dict[str, Parse] = {
    "id": _named("a task id", MAX_ID),
    "pool": _pool,
    "owner": _owner,
    "image": _image,
    "command": parse_strings,
    "args": parse_strings,
    "env": _env,
    "working_dir": parse_text,
    "resources": Vector.parse,
    "priority": _integer_within(-MOST_PRIORITY, MOST_PRIORITY),
    "labels": parse_labels,
    "retry": _retry,
    "deadlines": _deadlines,
    "grace_seconds": parse_duration,
    "on_lost": _on_lost,
    "retention_seconds": parse_duration,
    "pod_template": _template,
    "main_container": _main_container,
    "keep_logs": parse_boolean,
    "after": parse_after,
    "array": parse_array,
}
_RETRY: dict[str, Parse] = {
    "max_attempts": _integer_within(1, MAX_ATTEMPTS),
    "backoff_seconds": parse_duration,
    "factor": _factor,
    "max_seconds": parse_duration,
    "max_start_failures": _integer_within(0, MAX_ATTEMPTS),
    "rules": _rules,
}
_RULE: dict[str, Parse] = {"action": _action, "exit_codes": _exit_codes, "reasons": parse_strings}
_DEADLINES: dict[str, Parse] = dict.fromkeys(Deadlines.__struct_fields__, positive_duration)
_ON_LOST: dict[str, Parse] = dict.fromkeys(OnLost.__struct_fields__, positive_duration)
_POOL: dict[str, Parse] = {
    "name": _named("a pool's name"),
    "capacity": Vector.parse,
    "policy": one_of(Policy),
    "backfill_seconds": parse_duration,
    "default_resources": Vector.parse,
    "paused": parse_boolean,
    "engine_options": _engine_options,
    "keep_logs": parse_boolean,
    "reserve": one_of(Reserve),
    "sharing": parse_sharing,
    "preemption": parse_preemption,
    "require_attested": parse_boolean,
    "notify": parse_notify,
    "maintenance": parse_windows,
    "capacity_from": parse_capacity_from,
}
# Shared by all specs that say nothing else, since most do not. Specs are never changed.
_RETRY_DEFAULT, _DEADLINES_DEFAULT, _ON_LOST_DEFAULT = RetryPolicy(), Deadlines(), OnLost()
_NOTHING: dict[str, Any] = {}
_UNSAID: dict[str, Any] = {
    "env": _NOTHING,
    "labels": _NOTHING,
    "pod_template": _NOTHING,
    "retry": _RETRY_DEFAULT,
    "deadlines": _DEADLINES_DEFAULT,
    "on_lost": _ON_LOST_DEFAULT,
}
