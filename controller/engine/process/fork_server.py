"""The replica's end of the fork server that creates supervisors; `supervisor` is the other end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from controller.engine.base import EngineUnavailable

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]  # the folder that has the package `controller`
_END_SECONDS = 5.0  # for the server to take a request, or to end
_ANSWER_SECONDS = 30.0  # far more than any start takes; a start that answers later is adopted by the next try


class ForkServer:
    """A fork server, started by the first request, and again if it has died.

    Supervisors write errors to the file `log`. Safe to use from several threads.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def ask(self, launch: dict[str, Any]) -> dict[str, Any]:
        """Create a supervisor for `launch`, and return its answer. Raises EngineUnavailable, OSError."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over(theirs)
            ours.settimeout(_ANSWER_SECONDS)
            try:
                ours.sendall(json.dumps(launch).encode() + b"\n")
                with ours.makefile("rb") as stream:
                    line = stream.readline()
            except (BrokenPipeError, ConnectionResetError):
                line = b""
            except TimeoutError as error:
                raise EngineUnavailable(
                    f"the supervisor did not answer within {_ANSWER_SECONDS:g} s"
                ) from error
        if not line:
            raise EngineUnavailable(f"the supervisor ended without an answer; {self._log} may say why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the server; its supervisors continue. Idempotent."""
        with self._lock:
            self._end()

    def _hand_over(self, connection: socket.socket) -> None:
        with self._lock:
            if self._control is not None:
                try:
                    socket.send_fds(self._control, [b"!"], [connection.fileno()])
                    return
                except (BrokenPipeError, ConnectionResetError, TimeoutError):
                    self._end()  # it was killed, or takes nothing: start a new one
            socket.send_fds(self._begin(), [b"!"], [connection.fileno()])

    def _begin(self) -> socket.socket:
        control, theirs = socket.socketpair()
        # Without site packages and user settings it starts quickly; it knows only where the package is.
        command = [
            sys.executable,
            "-P",
            "-S",
            "-s",
            "-m",
            "controller.engine.process.supervisor",
            str(theirs.fileno()),
        ]
        with theirs, open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env={"PYTHONPATH": str(_PACKAGE_ROOT)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        control.settimeout(_END_SECONDS)
        self._control = control
        return control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:  # it is stopped, or stuck; its supervisors are none of it
                self._process.kill()
                self._process.wait()
        self._control = self._process = None
