"""How the interpreter and its allocator hold a model of hundreds of thousands of tasks."""

from __future__ import annotations

import ctypes
import gc
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
