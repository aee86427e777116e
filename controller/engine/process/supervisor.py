"""The fork server that creates supervisors: one per replica, with all modules imported.

It forks one supervisor per start (`attempt_supervisor`): a new interpreter for each would cost 25 ms of CPU
and 10 MB, a fork costs 4 ms and 2 MB. It ends with its replica; the supervisors do not. The name of this
module is in the command line of each supervisor, by which `search` knows it: it stays, whatever is moved.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from controller.engine.process.attempt_supervisor import Supervisor, show_error


def serve(control: socket.socket) -> None:
    """Fork a supervisor for each connection that arrives over `control`, until the replica closes that."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what we fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            # a command that kept it would keep the replica waiting for an answer
            connection.set_inheritable(False)
            try:
                pid = os.fork()
            except OSError as error:
                _send(connection, {"error": f"cannot fork a supervisor: {error}"})
                pid = -1
            if pid == 0:
                control.close()
                _supervise_and_exit(connection)
            connection.close()


def _supervise_and_exit(connection: socket.socket) -> NoReturn:
    try:
        os.setsid()
        with connection.makefile("rb") as stream:
            line = stream.readline()
        if line.endswith(b"\n"):  # otherwise the replica died before it had said all
            Supervisor(json.loads(line), lambda answer: _send(connection, answer)).run()
    # the last frame of the process: the error is shown, and the exit code is not that of success
    except BaseException:  # noqa: BLE001
        show_error()
        os._exit(1)
    os._exit(0)


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        show_error()  # the replica that asked is gone; the attempt continues, and is adopted by the next
    connection.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
