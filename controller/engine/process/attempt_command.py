"""Runs in the supervisor's child, which becomes the attempt's command.

Only the standard library is imported, since every supervisor carries this module.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

from controller.engine.process import attempt_folder as files

# the lowest descriptor for a command's lock; scripts use low numbers, and some use 200
_INHERITED_FROM = 90
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)

_START_FAILURES = {
    errno.ENOENT: ("CommandNotFound", "the command was not found"),
    errno.ENOTDIR: ("CommandNotFound", "the command was not found"),
    errno.EACCES: ("PermissionDenied", "permission to execute the command was denied"),
    errno.EPERM: ("PermissionDenied", "permission to execute the command was denied"),
    errno.ENOEXEC: ("NotExecutable", "the command is not a program (a script needs a #! line)"),
    errno.E2BIG: ("ArgumentsTooLong", "the arguments and the environment are larger than the system allows"),
}


def execute(launch: dict[str, Any], parent: int, gate: int, failure: int, inherited: int) -> NoReturn:
    """Become the command, in the child. A failure is written to `failure` as `stage:errno:text`."""
    stage = "setup"
    try:
        os.setsid()
        if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            # the task must not inherit ignored signals
            signal.signal(number, signal.SIG_DFL)
        # The supervisor opens the gate once the claim is recorded. It has died if the gate ends, or if our
        # parent is another process.
        if not os.read(gate, 1) or os.getppid() != parent:
            os._exit(127)
        folder = Path(launch["folder"])
        stdin = os.open(os.devnull, os.O_RDONLY)
        log = os.open(folder / files.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(stdin, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if not launch["working_dir"]:
            (folder / files.WORK).mkdir(exist_ok=True)
        stage = "cwd"
        os.chdir(launch["working_dir"] or folder / files.WORK)
        _keep_open(inherited)
        stage = "exec"
        os.execvpe(launch["argv"][0], launch["argv"], launch["env"])  # no shell, on purpose
    except OSError as error:
        text = f"{error.strerror}: {launch['argv'][0] if stage == 'exec' else error.filename}"
        os.write(failure, f"{stage}:{error.errno}:{text}".encode())
    except ValueError as error:  # such as letters that no file system has
        os.write(failure, f"{stage}:{errno.EINVAL}:{error}".encode(errors="replace"))
    finally:
        os._exit(127)


def why_not_executed(failure: bytes) -> tuple[str, str]:
    """The reason and message of a failure that `execute` wrote."""
    stage, number, text = failure.decode(errors="replace").split(":", 2)
    if stage == "cwd":
        return "BadWorkingDirectory", f"cannot enter the working directory: {text}"
    reason, what = _START_FAILURES.get(int(number), ("StartError", "the command could not be executed"))
    return reason, f"{what}: {text}"


def _keep_open(descriptor: int) -> None:
    """Let the command inherit the descriptor, under a number that it is unlikely to use itself."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, _INHERITED_FROM)  # inheritable, unlike os.dup
    except OSError:
        os.set_inheritable(descriptor, True)  # the limit on open files does not allow that number
