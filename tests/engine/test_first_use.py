"""What several threads decode into is prepared before there are threads: msgspec crashes when two of them are the first."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRIES = 6  # of which half crashed
FIRST_USE = """
import sys, threading
from contextlib import suppress
import msgspec
from {module} import {name}
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
def first():
    together.wait()
    with suppress(msgspec.ValidationError):
        msgspec.convert({{}}, {name})
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("controller.engine.process", "Observation"),
        ("controller.engine.pod_template", "PoolOptions"),
        ("controller.engine.container", "Container"),
        ("controller.engine.container", "Options"),
    ],
)
def test_threads_may_be_the_first_to_decode(module: str, name: str) -> None:
    """As the list, the watch and the starts of a new leader are."""
    for _ in range(TRIES):
        subprocess.run([sys.executable, "-c", FIRST_USE.format(module=module, name=name)], check=True)
