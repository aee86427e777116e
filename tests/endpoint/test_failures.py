"""Errors that no handler expects: what is raised on purpose, and what a limit causes, is no bug in Tally."""

from __future__ import annotations

import asyncio
import errno
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
from starlette.requests import Request
from starlette.responses import Response

import controller
from controller.endpoint.server import answer_failure
from controller.errors import MissingExtra, TallyError
from controller.gateway.error_answers import problem_of

REQUEST = Request({"type": "http", "path": "/v1/tasks", "query_string": b"", "headers": []})


def kinds(root: type[TallyError]) -> Iterator[type[TallyError]]:
    yield root
    for each in root.__subclasses__():
        yield from kinds(each)


def raised(kind: type[TallyError]) -> TallyError:
    """An error of this kind, whatever its constructor takes."""
    error = kind.__new__(kind)
    error.args = ("the sentence",)
    for name in ("field", "problem", "verb"):
        setattr(error, name, "x")
    return error


def by_gateway(error: Exception) -> Response:
    return problem_of(error).response()


def by_replica(error: Exception) -> Response:
    return asyncio.run(answer_failure(REQUEST, error))


each_answer = pytest.mark.parametrize("answer", [by_gateway, by_replica])


@each_answer
def test_no_error_that_is_raised_on_purpose_is_told_as_a_bug(answer: Callable[[Exception], Response]) -> None:
    """All there are, in all modules."""
    for module in pkgutil.walk_packages(controller.__path__, "controller."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {*kinds(TallyError)} - {MissingExtra}
    assert len(found) > 40
    for kind in found:
        response = answer(raised(kind))
        assert response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR, kind
        assert b"bug" not in bytes(response.body), kind


@each_answer
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_limit_of_the_process_is_told_as_one(
    answer: Callable[[Exception], Response], error: Exception
) -> None:
    response = answer(error)
    assert response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert response.headers["Retry-After"]
    assert b"a limit is reached (" in bytes(response.body)


@each_answer
@pytest.mark.parametrize(
    "error", [RuntimeError("else"), OSError(errno.EBADF, "else"), KeyError("x")], ids=repr
)
def test_any_other_error_is_a_bug(answer: Callable[[Exception], Response], error: Exception) -> None:
    assert answer(error).status_code == HTTPStatus.INTERNAL_SERVER_ERROR
