"""The lines of deploy/schedules.md, as they are printed, on a `tally dev`; and a tick in real time."""

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


def lines() -> list[str]:
    """What a user types."""
    section = (ROOT / "deploy" / "schedules.md").read_text().split("## A first schedule")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the examples and the command."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "deploy" / "examples", folder / "deploy" / "examples")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_every_line_of_the_page_does_what_it_says(dev: MakeDev, clone: Path) -> None:
    """A feature is turned on, and the next leader keeps the state of each schedule."""
    dev(samples=False, data_dir=clone / ".tally").until_it_leads()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {"HOME": str(clone), "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
    said = {}
    for command in lines():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "rror" not in done.stderr, f"{command}: {done.stderr}"
        said[command] = done.stdout
    applied = said["tally apply -f deploy/examples/schedule.yaml"]
    assert applied.startswith("schedule/nightly-report created\nfeature/schedules turned on")
    assert "schedule/check created" in applied
    assert "Europe/Berlin" in said["tally get schedules"]
    assert "nightly-report makes nightly-report-" in said["tally describe schedule nightly-report"]
    assert said["tally delete schedule nightly-report"] == "schedule/nightly-report deleted\n"


@pytest.mark.slow
def test_a_tick_is_made_in_real_time(dev: MakeDev, tmp_path: Path) -> None:
    """Within a minute or so, and its task runs."""
    running = dev(samples=False, data_dir=tmp_path / ".tally").until_it_leads()
    with running.client() as client:
        task = {"command": ["sh", "-c", 'test -n "$TALLY_SCHEDULED_AT"']}
        client.schedules.apply({"name": "each", "cron": "* * * * *", "task": task})
        for views in client.watch_tasks(selector="tally.dev/schedule=each"):
            if views:
                break
        assert client.wait([views[0].id])[views[0].id].state == "Succeeded"
        assert client.schedules.get("each").last is not None
