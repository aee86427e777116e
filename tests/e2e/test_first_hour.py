"""The README's first hour, line by line as it is printed, on a `tally dev`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeDev

ROOT = Path(__file__).parents[2]
RUN = ("sweep-1", "sweep-2", "train-1", "hello-py")


def lines() -> list[str]:
    """What a user types."""
    section = (ROOT / "README.md").read_text().split("## A first hour")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make install` in a fresh clone leaves, as far as these lines need it; the folder's name has a
    space.
    """
    folder = tmp_path / "a fresh clone"
    shutil.copytree(ROOT / "deploy" / "examples", folder / "deploy" / "examples")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_every_line_of_the_first_hour_does_what_it_says(dev: MakeDev, clone: Path) -> None:
    """From the clone's folder, whose `.tally` says which cluster is meant."""
    running = dev(samples=True, data_dir=clone / ".tally").until_it_leads()
    path, *commands = lines()
    assert path == 'PATH="$PWD/.venv/bin:$PATH"'
    assert len(commands) > 10
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment["HOME"] = str(clone)
    for command in commands:
        script = f"{path}\n{command}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "rror" not in done.stderr, f"{command}: {done.stderr}"
    with running.client() as client:
        states = {view.id: str(view.state) for view in client.tasks()}
    assert {name: states[name] for name in RUN} == dict.fromkeys(RUN, "Succeeded")
    # The second run submits no samples again, and what it prints to be tried does something.
    assert running.output.count(" created\n") == 10
    assert " submit hello --wait" in running.output
    running.interrupt()
    running.ended()
    second = dev(samples=True, data_dir=clone / ".tally").until_it_leads()
    assert second.output.count(" unchanged\n") == 10
    assert " submit hello-2 --wait" in second.output
