"""The README's first hour, line by line as it is printed, on a `tally dev`."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import MakeDev
from tests.support.pages import clone_in, run_there, typed

RUN = ("sweep-1", "sweep-2", "train-1", "hello-py")


def test_every_line_of_the_first_hour_does_what_it_says(dev: MakeDev, tmp_path: Path) -> None:
    """From the clone's folder, whose `.tally` says which cluster is meant."""
    clone = clone_in(tmp_path / "a fresh clone")
    running = dev(samples=True, data_dir=clone / ".tally").until_it_leads()
    path, *commands = typed("README.md", "A first hour")
    assert path == 'PATH="$PWD/.venv/bin:$PATH"'
    assert len(commands) > 10
    for command in commands:
        run_there(clone, f"{path}\n{command}")
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
