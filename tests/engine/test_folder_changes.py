"""What changes in a folder is told, as the kernel tells it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.engine.process.folder_changes import changes_in


def test_each_kind_of_change_is_told_by_name_and_none_before_the_watch(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    changes = changes_in(tmp_path, threading.Event(), timeout_ms=60_000, first=True)
    assert next(changes) == set()
    (tmp_path / "early").touch()
    assert next(changes) == set()
    steps: dict[str, Callable[[], object]] = {
        "made": lambda: (tmp_path / "made").mkdir(),
        "old": lambda: os.utime(tmp_path / "old"),
        "early": lambda: (tmp_path / "early").write_text("more"),
        "gone": lambda: (tmp_path / "made").rename(tmp_path / "gone"),
    }
    for name, change in steps.items():
        change()
        assert name in next(changes), name
    (tmp_path / "old").rmdir()
    assert next(changes) == {"old"}
    (tmp_path / "gone" / "within").touch()
    (tmp_path / "early").unlink()
    assert next(changes) == {"early"}


def test_a_time_out_tells_nothing_and_a_stop_ends_the_watch(tmp_path: Path) -> None:
    stop = threading.Event()
    changes = changes_in(tmp_path, stop, timeout_ms=20)
    assert [next(changes) for _ in range(3)] == [set()] * 3
    stop.set()
    (tmp_path / "late").touch()
    assert list(changes) == []


def test_changes_that_the_kernel_dropped_are_an_error(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    changes = changes_in(tmp_path, threading.Event())
    assert next(changes) == set()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.touch()
    for path in itertools.islice(itertools.cycle(paths), limit + 1):  # equal neighbours would be one event
        os.utime(path)
    with pytest.raises(OSError, match="more changes than the kernel keeps"):
        list(changes)


def test_only_a_folder_can_be_watched(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(OSError, match=f"directory: '.*/{name}'"):
            next(changes_in(tmp_path / name, threading.Event()))
