"""Specs and pools from a user's mapping: one code for the command line, the library and the leader.

`parse_spec` and `parse_pool` take what a YAML or JSON document held, and raise InvalidField with the path of the first
field that does not hold. Durations may be given as seconds (`30`, `1.5`) or as text (`90s`, `10m`, `1h30m`, `2d`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar

import msgspec

from controller.core.errors import InvalidField
from controller.core.resources import Vector
from controller.core.task import Deadlines, OnLost, Policy, Pool, RetryPolicy, RetryRule, Spec

MAX_ID = 52  # "<id>-<attempt>" must stay a DNS label of 63 characters, with ten digits for the attempt
MAX_SPEC_BYTES = 256 * 1024  # etcd takes 1.5 MiB in a request; a spec is read again and again
MAX_DURATION_SECONDS = 10 * 365 * 86400.0
MAX_ATTEMPTS = 1000
MAX_NUMBER = 1e18
MAX_NESTING = 50  # of mappings and lists in a pod template; whoever writes it out again must not run out of stack
RESERVED_ENV = ("TALLY_TASK_ID", "TALLY_ATTEMPT", "TALLY_TERM")

_ID = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_ACTIONS = ("retry", "fail", "ignore")

T = TypeVar("T")


def parse_duration(raw: object, field: str) -> float:
    """Seconds, from a number or from text such as `1h30m`. Raises InvalidField for anything negative or not finite."""
    if isinstance(raw, str):
        match = _DURATION.fullmatch(raw)
        if raw and match and any(match.groups()):
            parts = (float(part) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True) if part)
            return _in_range(sum(parts), field, 0.0, MAX_DURATION_SECONDS)
        try:
            raw = float(raw) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", raw) else None
        except ValueError:
            raw = None
    if not _is_number(raw):
        raise InvalidField(field, "expected a duration: seconds (30) or text such as 90s, 10m or 1h30m")
    return _in_range(float(raw), field, 0.0, MAX_DURATION_SECONDS)


def parse_name(raw: object, field: str, what: str = "a name", limit: int = 63) -> str:
    """A DNS-1123 label of at most `limit` characters (RFC 1123, as Kubernetes names objects)."""
    if not isinstance(raw, str) or not raw:
        raise InvalidField(field, f"expected {what} such as train-1")
    if len(raw) > limit:
        raise InvalidField(field, f"{raw[:20]!r}… has {len(raw)} characters, at most {limit} are allowed")
    if _ID.fullmatch(raw) is None:
        raise InvalidField(field, f"{raw!r} may hold only a-z, 0-9 and '-', and must begin and end with a letter or digit")
    return raw


def parse_spec(raw: object) -> Spec:
    """The spec that a mapping describes. Raises InvalidField, naming the field."""
    fields = _mapping(raw, "", "a task is a mapping with at least `id` and `command` or `image`")
    _known(fields, "", Spec.__struct_fields__)
    read = _Reader(fields)
    spec = Spec(
        id=parse_name(fields.get("id"), "id", "a task id", MAX_ID),
        pool=read("pool", lambda v, f: parse_name(v, f, "a pool's name"), "default"),
        image=read("image", _image, ""),
        command=read("command", _strings, ()),
        args=read("args", _strings, ()),
        env=read("env", _env, {}),
        working_dir=read("working_dir", _text, ""),
        resources=read("resources", Vector.parse, Vector()),
        priority=read("priority", lambda v, f: _integer(v, f, -1_000_000_000, 1_000_000_000), 0),
        labels=read("labels", _labels, {}),
        retry=read("retry", _retry, RetryPolicy()),
        deadlines=read("deadlines", _deadlines, Deadlines()),
        grace_seconds=read("grace_seconds", parse_duration, 30.0),
        on_lost=read("on_lost", _on_lost, OnLost()),
        retention_seconds=read("retention_seconds", parse_duration, 86400.0),
        pod_template=read("pod_template", lambda v, f: _json_object(v, f, "expected a pod template"), {}),
    )
    if not spec.command and not spec.image:
        raise InvalidField("command", "give a command to run, or an image that has one")
    if spec.args and not spec.command and not spec.image:
        raise InvalidField("args", "need a command, or an image that has one")
    size = len(msgspec.json.encode(spec, enc_hook=_plain))
    if size > MAX_SPEC_BYTES:
        raise InvalidField(
            "", f"the spec takes {size:,} bytes, at most {MAX_SPEC_BYTES:,} are allowed: shorten env, args or pod_template"
        )
    return spec


def parse_pool(raw: object) -> Pool:
    """The pool that a mapping describes. Raises InvalidField, naming the field."""
    fields = _mapping(raw, "", "a pool is a mapping with `name` and `capacity`")
    _known(fields, "", (*Pool.__struct_fields__, "version", "op"))
    read = _Reader(fields)
    if "capacity" not in fields:
        raise InvalidField("capacity", "is missing: give the resources of the pool, such as {cpu: 8, memory: 16Gi}")
    return Pool(
        name=parse_name(fields.get("name"), "name", "a pool's name"),
        capacity=read("capacity", Vector.parse, Vector()),
        policy=read("policy", _policy, Policy.STRICT),
        backfill_seconds=read("backfill_seconds", parse_duration, 300.0),
        default_resources=read("default_resources", Vector.parse, Vector()),
        paused=read("paused", _boolean, False),
        engine_options=read("engine_options", lambda v, f: _json_object(v, f, "expected a mapping"), {}),
    )


def check_satisfiable(spec: Spec, pool: Pool) -> None:
    """Raises InvalidField, with the numbers, when the spec asks for more than its pool has when empty."""
    for name in spec.resources.exceeding(pool.capacity):
        asked = Vector({name: spec.resources[name]}).format()[name]
        have = Vector({name: pool.capacity.get(name)}).format().get(name)
        problem = f"pool {pool.name!r} has {have} in all" if have else f"pool {pool.name!r} has none (it has {pool.capacity})"
        raise InvalidField(f"resources.{name}", f"asks for {asked}, but {problem}: it could never run")


class _Reader:
    """Reads one optional field of a mapping; None counts as not given, as in YAML's `key:`."""

    def __init__(self, fields: Mapping[str, Any], prefix: str = "") -> None:
        self._fields = fields
        self._prefix = prefix

    def __call__(self, name: str, parse: Callable[[object, str], T], default: T) -> T:
        raw = self._fields.get(name)
        return default if raw is None else parse(raw, f"{self._prefix}{name}")


def _mapping(raw: object, field: str, problem: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise InvalidField(field, problem)
    return raw


def _json_object(raw: object, field: str, problem: str) -> dict[str, Any]:
    """A mapping of anything, as it will be read back from the store: what JSON has no word for (a date) is text from here on."""
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(_mapping(raw, field, problem)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidField(field, f"cannot be stored as JSON: {error}") from None
    if _is_deeper_than(MAX_NESTING, plain):
        raise InvalidField(field, f"is nested more than {MAX_NESTING} deep")
    return plain


def _is_deeper_than(levels: int, value: object) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper_than(levels - 1, one) for one in inner)


def _known(fields: Mapping[str, Any], prefix: str, known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            raise InvalidField(f"{prefix}{name}", f"is not a field; known here are {', '.join(known)}")


def _is_number(raw: object) -> TypeGuard[int | float]:
    """Neither a bool, nor infinite or NaN, nor an integer beyond what can be calculated with."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and -MAX_NUMBER < raw < MAX_NUMBER


def _shown(raw: object) -> str:
    """What was given, short enough for a message."""
    text = repr(raw)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _in_range(value: float, field: str, low: float, high: float) -> float:
    if not low <= value <= high:
        raise InvalidField(field, f"is {value:g}, expected {low:g} to {high:g}")
    return value


def _integer(raw: object, field: str, low: int, high: int) -> int:
    if not _is_number(raw) or not isinstance(raw, int):
        raise InvalidField(field, f"is {_shown(raw)}, expected a whole number")
    return int(_in_range(raw, field, low, high))


def _boolean(raw: object, field: str) -> bool:
    if not isinstance(raw, bool):
        raise InvalidField(field, f"is {_shown(raw)}, expected true or false")
    return raw


def _text(raw: object, field: str) -> str:
    if not isinstance(raw, str):
        raise InvalidField(field, f"is {_shown(raw)}, expected text")
    if "\0" in raw:
        raise InvalidField(field, "holds a NUL character, which no process can be given")
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise InvalidField(field, "holds a character that UTF-8 cannot encode (a lone surrogate)") from None
    return raw


def _image(raw: object, field: str) -> str:
    image = _text(raw, field)
    if image != image.strip() or any(c.isspace() for c in image):
        raise InvalidField(field, f"{image!r} holds white space")
    return image


def _strings(raw: object, field: str) -> tuple[str, ...]:
    if isinstance(raw, str) or not isinstance(raw, list | tuple):
        raise InvalidField(field, f'expected a list of texts, such as ["sh", "-c", "echo hello"], not {type(raw).__name__}')
    return tuple(_text(item, f"{field}[{index}]") for index, item in enumerate(raw))


def _env(raw: object, field: str) -> dict[str, str]:
    env = {}
    for name, value in _mapping(raw, field, "expected a mapping of names to texts").items():
        path = f"{field}.{name}"
        if _ENV_NAME.fullmatch(name) is None:
            raise InvalidField(path[:100], "is not a variable's name: letters, digits and '_', not beginning with a digit")
        if name in RESERVED_ENV:
            raise InvalidField(path, "is set by Tally (the attempt's fencing token) and cannot be given")
        env[name] = str(value) if isinstance(value, int) and _is_number(value) else _text(value, path)
    return env


def _labels(raw: object, field: str) -> dict[str, str]:
    labels = {}
    for key, value in _mapping(raw, field, "expected a mapping of keys to texts").items():
        path = f"{field}.{key}"
        if _LABEL_KEY.fullmatch(key) is None:
            raise InvalidField(path[:100], "is not a label's key ([prefix/]name, as Kubernetes has it)")
        if _LABEL_VALUE.fullmatch(_text(value, path)) is None:
            raise InvalidField(path, f"{value[:80]!r} is not a label's value (at most 63 of A-Z a-z 0-9 - _ .)")
        labels[key] = value
    return labels


def _retry(raw: object, field: str) -> RetryPolicy:
    if isinstance(raw, RetryPolicy):
        return raw
    fields = _mapping(raw, field, "expected a mapping such as {max_attempts: 3, backoff_seconds: 10}")
    fields = dict(fields)
    if "max" in fields:  # the short name for max_seconds
        fields.setdefault("max_seconds", fields.pop("max"))
    _known(fields, f"{field}.", RetryPolicy.__struct_fields__)
    read = _Reader(fields, f"{field}.")
    return RetryPolicy(
        max_attempts=read("max_attempts", lambda v, f: _integer(v, f, 1, MAX_ATTEMPTS), 1),
        backoff_seconds=read("backoff_seconds", parse_duration, 10.0),
        factor=read("factor", _factor, 2.0),
        max_seconds=read("max_seconds", parse_duration, 300.0),
        max_start_failures=read("max_start_failures", lambda v, f: _integer(v, f, 0, MAX_ATTEMPTS), 5),
        rules=read("rules", _rules, ()),
    )


def _factor(raw: object, field: str) -> float:
    if not _is_number(raw):
        raise InvalidField(field, f"is {_shown(raw)}, expected a number from 1 to 100")
    return _in_range(float(raw), field, 1.0, 100.0)


def _rules(raw: object, field: str) -> tuple[RetryRule, ...]:
    if not isinstance(raw, list | tuple):
        raise InvalidField(field, "expected a list of rules, such as [{exit_codes: [2], action: fail}]")
    rules = []
    for index, item in enumerate(raw):
        path = f"{field}[{index}]"
        fields = _mapping(item, path, "expected a mapping such as {exit_codes: [2], action: fail}")
        _known(fields, f"{path}.", RetryRule.__struct_fields__)
        if fields.get("action") not in _ACTIONS:
            raise InvalidField(f"{path}.action", f"is {_shown(fields.get('action'))}, expected one of {', '.join(_ACTIONS)}")
        read = _Reader(fields, f"{path}.")
        rules.append(
            RetryRule(
                action=fields["action"],
                exit_codes=read("exit_codes", _exit_codes, ()),
                reasons=read("reasons", _strings, ()),
            )
        )
    return tuple(rules)


def _exit_codes(raw: object, field: str) -> tuple[int, ...]:
    if not isinstance(raw, list | tuple):
        raise InvalidField(field, "expected a list of exit codes, such as [1, 2]")
    return tuple(_integer(item, f"{field}[{index}]", 0, 255) for index, item in enumerate(raw))


def _deadlines(raw: object, field: str) -> Deadlines:
    fields = dict(_mapping(raw, field, "expected a mapping such as {queue: 1h, start: 5m, run: 2h}"))
    for short in ("queue", "start", "run"):
        if short in fields:
            if f"{short}_seconds" in fields:
                raise InvalidField(f"{field}.{short}", f"is given twice, as {short} and as {short}_seconds")
            fields[f"{short}_seconds"] = fields.pop(short)
    _known(fields, f"{field}.", Deadlines.__struct_fields__)
    read = _Reader(fields, f"{field}.")
    limits: dict[str, float | None] = {name: read(name, _positive_duration, None) for name in Deadlines.__struct_fields__}
    return Deadlines(**limits)


def _positive_duration(raw: object, field: str) -> float | None:
    seconds = parse_duration(raw, field)
    if seconds <= 0:
        raise InvalidField(field, "is 0, which nothing could meet; leave it out for no limit")
    return seconds


def _on_lost(raw: object, field: str) -> OnLost:
    if raw == "hold":
        return OnLost()
    fields = dict(_mapping(raw, field, "expected `hold`, or a mapping such as {replace_after: 10m}"))
    if "replace_after" in fields:
        fields["replace_after_seconds"] = fields.pop("replace_after")
    _known(fields, f"{field}.", OnLost.__struct_fields__)
    return OnLost(replace_after_seconds=_Reader(fields, f"{field}.")("replace_after_seconds", _positive_duration, None))


def _policy(raw: object, field: str) -> Policy:
    try:
        return Policy(raw)  # type: ignore[arg-type]  # anything else is refused
    except ValueError:
        raise InvalidField(field, f"is {_shown(raw)}, expected one of {', '.join(Policy)}") from None


def _plain(value: object) -> object:
    if isinstance(value, Vector):
        return value.format()
    raise TypeError(f"cannot encode {type(value)}")
