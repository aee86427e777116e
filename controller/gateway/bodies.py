"""What callers send: JSON documents, and lines of them (NDJSON), within limits of size and time."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from controller.client.bulk import MAX_ACTS, TaskAct
from controller.core.model.scalars import json_problem, shown
from controller.endpoint.problems import Problem
from controller.endpoint.query import MAX_WAIT_SECONDS
from controller.errors import InvalidField

NDJSON = "application/x-ndjson"
OUTPUT = "application/octet-stream"
MAX_BODY_BYTES = 1536 * 1024  # of one document: what etcd takes in one request
SMALL_BYTES = 16 * 1024  # of a body that is parsed while all others wait
MAX_LINES = 256  # that are submitted together
MAX_LINES_BYTES = 512 * 1024
_BLANK_LINES = re.compile(rb"\n[\s]+")  # of which a body may have any number
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_UTF_8 = "utf-8", "utf8", "us-ascii", "ascii"  # and what is a part of it
PAUSE_SECONDS = 0.2  # of an upload, after which the lines that have arrived are submitted
BODY_SECONDS = 60.0  # for a whole body: who sends a byte now and then keeps a connection no longer
SILENCE_SECONDS = 15.0  # without a byte of a body that is still to come

T = TypeVar("T")


class ActionBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of the leader. `create_revision` is that of the task as it was shown; 0: of any.

    `steps`, of what is sent again since no answer came: `status.steps` of the task, or of the array whose
    member it is, before it was sent first. What the leader has acted on since is not asked for again.
    """

    reason: str = ""
    create_revision: int = 0
    steps: Annotated[int, Meta(ge=0)] | None = None


class CancelBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, for these `members` of an array, such as `7` or `100-200,300`; "": for all of it."""

    members: Annotated[str, Meta(max_length=4096)] = ""


class RetryBody(CancelBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same; with `only_failed`, not for the members that are Cancelled."""

    only_failed: bool = False


class PriorityBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, and the new priority."""

    priority: int


class DrainBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A maintenance window of a pool. Times are seconds since the Unix epoch."""

    starts_at: float
    ends_at: float
    reason: str = ""


class UndrainBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which window of a pool is removed, by when it starts; null: all."""

    starts_at: float | None = None


class NamedTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of many tasks; `create_revision` and `steps` as in ActionBody."""

    id: str
    create_revision: int = 0
    steps: Annotated[int, Meta(ge=0)] | None = None


class ActsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of the leader for many tasks, each of which is named once.

    `priority` goes with `set-priority`, and with nothing else.
    """

    act: TaskAct
    tasks: Annotated[list[NamedTask], Meta(min_length=1, max_length=MAX_ACTS)]
    reason: str = ""
    priority: int | None = None


class WaitBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks to wait for: until one has changed after the revision `since` (0: tell all now)."""

    ids: list[str]
    since: Annotated[int, Meta(ge=0)] = 0
    timeout_seconds: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = MAX_WAIT_SECONDS


def require_plain(headers: Headers) -> None:
    """Raises Problem (415) for a body that is compressed, or not in UTF-8: it would be taken for another."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise _unsupported(f"the body is encoded as {encoding[:80]!r}: send it as it is")
    named = _CHARSET.search(headers.get("content-type", ""))
    if named is not None and named[1].lower() not in _UTF_8:
        raise _unsupported(f"the body is said to be in {named[1][:80]!r}: send it in UTF-8")


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises Problem if the caller falls silent."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_late(f"nothing of the body arrived for {SILENCE_SECONDS:g} seconds") from None
        yield chunk


async def whole(request: Request) -> bytes:
    """The whole body. Raises Problem if it is larger than MAX_BODY_BYTES, or does not arrive in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in chunks(request):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large("the body")
    except TimeoutError:
        raise _too_late(f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
    return bytes(body)


async def lines(request: Request) -> AsyncIterator[list[bytes]]:
    """The lines of the body that are not empty: many together, or those that have arrived before a pause.

    Raises Problem as `whole`, for each line, after the lines before it. Who leaves has sent the lines that
    came whole.
    """
    rest, found, size = bytearray(), list[bytes](), 0
    problem: Problem | None = None
    coming: asyncio.Future[bytes] | None = None
    parts = chunks(request)
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(parts))
            done, _ = await asyncio.wait([coming], timeout=PAUSE_SECONDS if found else None)
            if not done:
                yield found
                found, size = [], 0
                continue
            chunk, coming = coming.result(), None
            rest += _BLANK_LINES.sub(b"\n", chunk)
            whole_lines = list[bytes]()
            if b"\n" in chunk:
                *whole_lines, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
            for line in whole_lines:
                _check_line(line)
                if line.strip():
                    found.append(line)
                    size += len(line)
                if len(found) >= MAX_LINES or size >= MAX_LINES_BYTES:
                    yield found
                    found, size = [], 0
            _check_line(rest)
    except StopAsyncIteration:
        found += [bytes(rest)] if rest.strip() else []
    except ClientDisconnect:
        pass
    except Problem as error:
        problem = error
    finally:
        if coming is not None:
            coming.cancel()
    if found:
        yield found
    if problem is not None:
        raise problem


def _check_line(line: bytes | bytearray) -> None:
    if len(line) > MAX_BODY_BYTES:
        raise _too_large("a line")


def parse_json(data: bytes) -> Any:
    """The value of a JSON document, each name in it once. Raises ValueError that says what is wrong."""
    try:
        # given bytes, `json` would also take UTF-16, and half of a surrogate pair
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        if b"\\u" in data:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(json_problem(error)) from None
    return found


def definition_of(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The definition that was sent to the path of this name. Raises InvalidField if it has another name."""
    if body.setdefault("name", name) != name:
        raise InvalidField("name", f"is {shown(body['name'])}, but the path says {shown(name)}")
    return body


def parse_body(data: bytes, kind: type[T]) -> T:
    """The body as a value of this kind. Raises Problem, which names the field."""
    try:
        return msgspec.convert(parse_json(data or b"{}"), kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        named = re.search(r"field `([^`]*)`", text)
        field = ".".join(filter(None, (place.strip("`."), named[1] if named else "")))
        raise Problem(HTTPStatus.BAD_REQUEST, f"{field}: {text}" if field else text, field=field) from None
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:80]!r} is given twice")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _unsupported(what: str) -> Problem:
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, what, headers={"Connection": "close"})


def _too_late(what: str) -> Problem:
    return Problem(HTTPStatus.REQUEST_TIMEOUT, what, headers={"Connection": "close"})


def _too_large(what: str) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"{what} is larger than {MAX_BODY_BYTES} bytes, more than etcd takes",
        headers={"Connection": "close"},
    )
