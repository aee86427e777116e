"""What this process expects of its interpreter: room for large models, and files that are open."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE_BYTES = 512 * 1024


def hold_large_models() -> None:
    """Set up this process for such a model.

    The model is a million objects without a cycle: with the default thresholds, half of the time of a load
    goes into searching for cycles. And glibc keeps the more of what is given back, the larger buffers have
    been: it returns those of an answer at once. Source: mallopt(3); another C library is left as it is.
    """
    gc.set_threshold(10_000, 50, 100)
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def open_standard_files() -> None:
    """Open stdin, stdout and stderr on nothing, each that a launcher has closed.

    Else the next file that is opened takes its place, such as a connection to etcd, and what is written to
    stderr goes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
