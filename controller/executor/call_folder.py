"""Calls and their results in a folder that both sides reach: a shared one, or a bucket (fsspec's URLs).

`FOLDER/TASK/call.pkl` has the function and its arguments, `FOLDER/TASK/result-ATTEMPT.pkl` what came of it.
Each attempt writes a file of its own, so that one that was given up cannot change what another one returned.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cloudpickle
import fsspec

# Runs in the task. It needs Python, cloudpickle and fsspec there, and nothing of Tally.
RUN = """\
import os, sys, traceback
import cloudpickle, fsspec
fs, path = fsspec.url_to_fs(sys.argv[1])
with fs.open(f"{path}/call.pkl", "rb") as file:
    function, args, kwargs = cloudpickle.load(file)
try:
    outcome = ("value", function(*args, **kwargs))
except BaseException as error:
    outcome = ("error", error, traceback.format_exc())
try:
    data = cloudpickle.dumps(outcome)
except Exception as error:
    why = f"what {getattr(function, '__name__', 'it')} gave cannot be pickled: {error}"
    outcome = ("error", TypeError(why), traceback.format_exc())
    data = cloudpickle.dumps(outcome)
if outcome[0] == "error":
    try:
        cloudpickle.loads(data)
    except Exception:
        error = RuntimeError(f"{type(outcome[1]).__name__}: {outcome[1]} (it cannot be unpickled)")
        data = cloudpickle.dumps(("error", error, outcome[2]))
target = f"{path}/result-{os.environ['TALLY_ATTEMPT']}.pkl"
with fs.open(f"{target}.part", "wb") as file:
    file.write(data)
fs.mv(f"{target}.part", target)
if outcome[0] == "error":
    print(outcome[2], file=sys.stderr)
    sys.exit(1)
"""


class CallError(NamedTuple):
    """A function raised this."""

    error: BaseException
    trace: str


class CallFolder:
    """The folder. `url` is one of fsspec: a path, or a URL such as s3://bucket/results."""

    def __init__(self, url: str) -> None:
        # a task has another working folder
        self.url = url.rstrip("/") if ":" in url else os.path.abspath(url)
        self._files, self._path = fsspec.url_to_fs(self.url)

    def store(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str:
        """Store a call; returns its URL, which the task is given."""
        data = cloudpickle.dumps((function, tuple(args), dict(kwargs)))
        self._files.makedirs(f"{self._path}/{name}", exist_ok=True)
        with self._files.open(f"{self._path}/{name}/call.pkl", "wb") as file:
            file.write(data)
        return f"{self.url}/{name}"

    def result(self, name: str, attempt: int) -> Any:
        """What an attempt returned, or a CallError. Raises FileNotFoundError if it wrote nothing.

        Whoever can write to the folder can make its reader run anything: that is how pickles are.
        """
        with self._files.open(f"{self._path}/{name}/result-{attempt}.pkl", "rb") as file:
            kind, *rest = pickle.load(file)
        return CallError(*rest) if kind == "error" else rest[0]

    def newest(self, name: str) -> int:
        """The last attempt that has written a result; 0 if none has."""
        files = self._files.glob(f"{self._path}/{name}/result-*.pkl")
        return max((int(each.rpartition("-")[2].removesuffix(".pkl")) for each in map(str, files)), default=0)

    def remove(self, name: str) -> None:
        """Remove a call and its results."""
        self._files.rm(f"{self._path}/{name}", recursive=True)
