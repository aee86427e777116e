"""The README's first hour, line by line as it is printed, on a `tally dev`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import MakeDev

ROOT = Path(__file__).parents[2]


def lines() -> list[str]:
    """What a user types."""
    section = (ROOT / "README.md").read_text().split("## A first hour")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]


def test_every_line_of_the_first_hour_does_what_it_says(dev: MakeDev) -> None:
    """From the clone's own folder, where the files of the examples are."""
    running = dev(samples=True).until_it_leads()
    commands = lines()
    assert len(commands) > 10
    assert commands[0] == 'PATH="$PWD/.venv/bin:$PATH"'
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {
        "TALLY_CONFIG": str(running.config),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "rror" not in done.stderr, f"{command}: {done.stderr}"
    with running.client() as client:
        states = {view.id: view.state.value for view in client.tasks()}
    assert {name: states[name] for name in ("sweep-1", "sweep-2", "train-1")} == dict.fromkeys(
        ("sweep-1", "sweep-2", "train-1"), "Succeeded"
    )
    # The second run submits no samples again, and what it prints to be tried does something.
    assert running.output.count(" created\n") == 10
    assert " submit hello --wait" in running.output
    running.interrupt()
    running.ended()
    second = dev(samples=True).until_it_leads()
    assert second.output.count(" unchanged\n") == 10
    assert " submit hello-2 --wait" in second.output
