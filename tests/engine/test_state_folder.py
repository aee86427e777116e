"""Whatever stands in the place of `engine.json`: the engine is unavailable while it does, nobody waits for
it, and no longer.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.engine.base import EngineUnavailable
from controller.engine.process.engine import ProcessEngine


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    "put",
    [
        os.mkfifo,
        Path.mkdir,
        a_socket,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b'{"id":5}'),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b"\xff" * 2_000_000),
        lambda _path: None,
    ],
    ids=["FIFO", "folder", "socket", "loop", "device", "empty", "other JSON", "deep", "large", "nothing"],
)
def test_what_stands_for_engine_json(tmp_path: Path, put: Callable[[Path], None]) -> None:
    engine = ProcessEngine(tmp_path, "test", SystemClock())
    own, path = engine.identity(), tmp_path / "test" / "engine.json"
    kept = path.read_bytes()
    path.unlink()
    put(path)
    threads = ThreadPoolExecutor(1)
    asked = threads.submit(engine.identity)
    error = asked.exception(timeout=20)
    assert isinstance(error, EngineUnavailable)
    assert "engine.json" in str(error)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(kept)
    assert engine.identity() == own
    threads.shutdown()
    engine.close()
