"""What several threads decode into is prepared before there are threads: msgspec crashes when two of them
are the first.
"""

from __future__ import annotations

import subprocess
import sys

TRIES = 10  # of which three crashed
FIRST_USE = """
import sys, threading
from contextlib import suppress
import msgspec
from controller.engine.process.engine import Observation
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
def first():
    together.wait()
    with suppress(msgspec.ValidationError):
        msgspec.convert({"attempt": {"task_id": "a", "number": 1}, "phase": "Running"}, Observation)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_may_be_the_first_to_decode() -> None:
    """As the list, the watch and the starts of a new leader are."""
    for _ in range(TRIES):
        subprocess.run([sys.executable, "-c", FIRST_USE], check=True)
