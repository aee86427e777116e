"""The documents in a file or on standard input: YAML (several, or lists), JSON, or one JSON object a line, as it arrives."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from controller.core.errors import UserError

CHUNK = 1280  # documents that are handed on at a time, at most


class Document(NamedTuple):
    """What was read, and where, for messages. `problem` says why it could not be read."""

    value: Any
    place: str
    problem: str = ""


def read_documents(source: str) -> Iterator[list[Document]]:
    """The documents of a file (`-`: standard input), in chunks; a stream's chunks hold what has arrived.

    A line that is not JSON is a Document with its `problem`, and the lines after it are read; a broken YAML or JSON file
    raises UserError that names file and line, before any of it is handed on.
    """
    if source == "-":
        if sys.stdin.isatty():
            print("reading from the terminal; end with Ctrl-D", file=sys.stderr)
        yield from _read(sys.stdin, "standard input", streams=True)
        return
    try:
        with Path(source).open(encoding="utf-8") as file:
            yield from _read(file, source, streams=False)
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text: {error}") from None


def _read(file: IO[str], name: str, *, streams: bool) -> Iterator[list[Document]]:
    first = file.readline()
    if _is_object(first):
        lines = _lines(first, file, name)
        yield from _as_they_arrive(lines) if streams else _chunks(lines)
    else:
        yield from _chunks(_whole(first + file.read(), name))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(first: str, file: IO[str], name: str) -> Iterator[Document]:
    number, line = 1, first
    while line:
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield Document(json.loads(line), place)
            except (ValueError, RecursionError) as error:
                yield Document(None, place, f"is not JSON: {error}")
        number, line = number + 1, file.readline()


def _whole(text: str, name: str) -> Iterator[Document]:
    documents = _parse(text, name)
    if not documents:
        raise UserError(f"{name} holds no document")
    for number, document in enumerate(documents, 1):
        place = f"{name}, document {number}" if len(documents) > 1 else name
        if isinstance(document, list):
            yield from (Document(item, f"{place}, item {index}") for index, item in enumerate(document, 1))
        else:
            yield Document(document, place)


def _parse(text: str, name: str) -> list[Any]:
    import yaml

    if text.lstrip()[:1] in ("{", "["):
        try:
            return [json.loads(text)]
        except (ValueError, RecursionError) as error:
            if name.endswith(".json"):
                raise UserError(f"{name} is not JSON: {error}") from None
            # Else YAML, whose flow style begins like this too.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where libyaml is there: ten times faster
    try:
        return [document for document in yaml.load_all(text, Loader=loader) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None


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
    """Chunks of what is there, so that a slow producer's tasks are submitted as it writes them."""
    arrived: queue.Queue[Document | BaseException | None] = queue.Queue(maxsize=CHUNK)

    def read() -> None:
        try:
            for document in documents:
                arrived.put(document)
            arrived.put(None)
        except (OSError, UnicodeDecodeError) as error:
            arrived.put(error)

    # A daemon, since nothing ends a blocked read of standard input.
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
