"""Reads documents from a file or from standard input: YAML, JSON or JSON lines.

A YAML file may have several documents, and a document may be a list. JSON lines are one object per line, and
are passed on as they arrive. The output of `tally get -o yaml` and `-o json` is valid input: of a list its
items are used, of a task its spec, and of a pool its definition.
"""

from __future__ import annotations

import io
import json
import queue
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from controller.core.model.scalars import json_problem
from controller.errors import UserError
from controller.terminal import say

CHUNK = 1280  # the maximum number of documents in a chunk
MAX_BYTES = 128 * 1024**2  # the maximum size of YAML or JSON; JSON lines have no limit but for one line
MAX_LINED_BYTES = 1024**2  # in larger JSON, the lines of documents are not known
_BYTE_ORDER_MARK = "\ufeff"


class Document(NamedTuple):
    """A document, and its place `FILE:LINE` for messages. `problem` says why it could not be read."""

    value: Any
    place: str
    problem: str = ""

    def place_of(self, field: str) -> str:
        """The place of a field such as `retry.rules[0].action`, or of its nearest parent that exists."""
        from controller.cli.yaml12 import Lined

        if not isinstance(self.value, Lined):
            return self.place
        file, _, line = self.place.rpartition(":")
        value: Any = self.value
        rest = field
        while rest:
            if isinstance(value, Lined):
                # The longest key that matches counts, since a label's key may have dots.
                keys = [key for key in value if rest == key or rest.startswith((f"{key}.", f"{key}["))]
                if not keys:
                    break
                key = max(keys, key=len)
                line, value, rest = str(value.lines[key]), value[key], rest[len(key) :].removeprefix(".")
            elif (
                isinstance(value, list)
                and (index := re.match(r"\[(\d+)\]\.?", rest))
                and int(index[1]) < len(value)
            ):
                value, rest = value[int(index[1])], rest[index.end() :]
                line = str(value.line) if isinstance(value, Lined) else line
            else:
                break
        return f"{file}:{line}"


def read_documents(source: str, noun: str) -> Iterator[list[Document]]:
    """The documents of a file (`-`: standard input), in chunks. A stream's chunk has what has arrived.

    In JSON lines, a line that is not JSON becomes a Document with a `problem`, and reading continues. An
    invalid YAML or JSON file raises UserError with its file and line, before any document is yielded. A
    source without documents raises UserError, too.
    """
    is_empty = True
    for chunk in _open(source):
        is_empty = False
        yield chunk
    if is_empty:
        raise UserError(f"no {noun} found in {source if source != '-' else 'standard input'}")


def _open(source: str) -> Iterator[list[Document]]:
    if source == "-":
        if sys.stdin.isatty():
            say("reading from the terminal; end with Ctrl-D", err=True)
        if isinstance(sys.stdin, io.TextIOWrapper):  # in the C locale it takes any bytes for text
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")
        try:
            yield from _read(sys.stdin, "standard input", streams=True)
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not UTF-8 text: {error}") from None
        return
    try:
        with Path(source).open(encoding="utf-8") as file:
            yield from _read(file, source, streams=False)
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError("a file name cannot contain a NUL character") from None


def _read(file: IO[str], name: str, *, streams: bool) -> Iterator[list[Document]]:
    first = file.readline(MAX_BYTES + 1).removeprefix(_BYTE_ORDER_MARK)
    if _is_object(first):
        lines = _lines(first, file, name)
        yield from _as_they_arrive(lines) if streams else _chunks(lines)
    else:
        text = first + file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise UserError(
                f"{name} is larger than {MAX_BYTES // 1024**2} MiB: use JSON lines (one object on each line),"
                " which have no limit"
            )
        yield from _together(list(_whole(text, name)))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(first: str, file: IO[str], name: str) -> Iterator[Document]:
    number, line = 1, first
    while line:
        if line.strip() not in ("", "---"):  # what separates documents of YAML, which JSON is, too
            place = f"{name}:{number}"
            try:
                value = json.loads(line, object_pairs_hook=_once_each)
            except (ValueError, RecursionError) as error:
                yield Document(None, place, f"is not JSON: {json_problem(error)}")
            else:
                yield from _items(value, place)
        number, line = number + 1, file.readline(MAX_BYTES + 1)


def _whole(text: str, name: str) -> Iterator[Document]:
    for value, line in _parse(text, name):
        yield from _items(value, f"{name}:{line}")


def _items(value: Any, place: str) -> Iterator[Document]:
    """The items of a list, or the document itself; output of `tally get` is turned back into its input."""
    from controller.cli.yaml12 import Lined

    file = place.rpartition(":")[0]
    if isinstance(value, dict) and isinstance(value.get("items"), list) and "id" not in value:
        value = value["items"]
    if not isinstance(value, list):
        yield Document(_as_given(value), place)
        return
    for number, item in enumerate(value, 1):
        yield Document(
            _as_given(item), f"{file}:{item.line}" if isinstance(item, Lined) else f"{place}, item {number}"
        )


def _as_given(value: Any) -> Any:
    for part in ("spec", "definition"):
        if isinstance(value, dict) and isinstance(value.get(part), dict):
            return value[part]
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict[str, Any]()
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name}: is given twice")
        made[name] = value
    return made


def _parse(text: str, name: str) -> list[tuple[Any, int]]:
    from controller.cli.yaml12 import YamlError, read_yaml

    json_value: Any = None
    if text.lstrip()[:1] in ("{", "["):
        try:
            json_value = json.loads(text, object_pairs_hook=_once_each)
        except (ValueError, RecursionError) as error:
            if name.endswith(".json"):
                line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
                raise UserError(f"{name}{line}: is not JSON: {json_problem(error)}") from None
            # It may be YAML, whose flow style begins in the same way.
        if json_value is not None and len(text) > MAX_LINED_BYTES:
            return [(json_value, 1)]
    try:
        documents = list(read_yaml(text))
    except YamlError as error:
        if json_value is not None:
            return [(json_value, 1)]
        where = f"{name}:{error.line}" if error.line else name
        raise UserError(f"{where}: is neither YAML nor JSON: {error}") from None
    # The YAML reader knows the lines. Where it reads JSON differently (1e400, \\/), the JSON reader is right.
    return (
        documents
        if json_value is None or [value for value, _ in documents] == [json_value]
        else [(json_value, 1)]
    )


def _together(documents: list[Document]) -> Iterator[list[Document]]:
    """Chunks; but one, if a document is of a task that waits for others: they may be in any order."""
    if any(isinstance(each.value, dict) and each.value.get("after") for each in documents):
        yield documents
    else:
        yield from _chunks(iter(documents))


def _chunks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    for document in documents:
        chunk.append(document)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _as_they_arrive(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Chunks of what has arrived, so that a slow producer's tasks are submitted as it writes them."""
    arrived: queue.Queue[Document | BaseException | None] = queue.Queue(maxsize=CHUNK)

    def read() -> None:
        try:
            for document in documents:
                arrived.put(document)
            arrived.put(None)
        except (OSError, UnicodeDecodeError) as error:
            arrived.put(error)

    # A daemon thread, since a blocked read of standard input cannot be ended.
    threading.Thread(target=read, name="submit-reader", daemon=True).start()
    ended: Document | BaseException | None
    while True:
        chunk: list[Document] = []
        ended = arrived.get()
        while isinstance(ended, Document):
            chunk.append(ended)
            if len(chunk) == CHUNK:
                break
            try:
                ended = arrived.get_nowait()
            except queue.Empty:
                break
        if chunk:
            yield chunk
        if ended is None:
            return
        if isinstance(ended, BaseException):
            raise UserError(f"standard input cannot be read: {ended}") from ended
