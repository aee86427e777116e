"""The lines of deploy/schedules.md, as they are printed, on a `tally dev`; and a tick in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import MakeDev
from tests.support.pages import clone_in, run_there, typed


def test_every_line_of_the_page_does_what_it_says(dev: MakeDev, tmp_path: Path) -> None:
    """A feature is turned on, and the next leader keeps the state of each schedule."""
    clone = clone_in(tmp_path / "clone")
    dev(samples=False, data_dir=clone / ".tally").until_it_leads()
    path = 'PATH="$PWD/.venv/bin:$PATH"'
    lines = typed("deploy/schedules.md", "A first schedule")
    said = {command: run_there(clone, f"{path}\n{command}") for command in lines[:-1]}
    made = run_there(clone, f"{path}\n" + "\n".join(typed("deploy/schedules.md", "Now, and for the past")))
    assert "task/nightly-report-now created" in made
    assert made.count("task/nightly-report-of-2026-11-0") == 3
    told = run_there(clone, f"{path}\ntally get task nightly-report-of-2026-11-02 -o yaml --spec")
    assert "2026-11-02T01:30:00Z" in told
    said[lines[-1]] = run_there(clone, f"{path}\n{lines[-1]}")
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
