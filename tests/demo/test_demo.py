"""The demo, whole, as a user runs it: each naive design is wrong as claimed, and Tally is not.

The figures are read from what it prints, and judged here. Its own verdict is not asked.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple
from xml.etree import ElementTree

import pytest

from controller.engine.process.table import Process, environment_value, processes
from tests.support.waiting import signalled_to_its_end, wait_until

pytestmark = pytest.mark.xdist_group("demo")  # one run serves all

ROW = re.compile(
    r"^(?P<name>\S.*?)  +(?P<numbers>\d+ +\d+ +\d+ +\d+)  [▁-█]{8} +"
    r"(?P<refused>\d+) +[\d.]+  (?P<verdict>.+)$"
)


class Row(NamedTuple):
    """A row of the last tables."""

    numbers: list[int]  # after 20, 40 and 60, and at last
    refused: int
    verdict: str


class Shown(NamedTuple):
    """What a run of the demo left."""

    output: str
    page: str
    tables: list[dict[str, Row]]


def demo_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "controller.cli.main", "demo", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """Of a user whose temporary files are in this folder."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUTF8": "1"}


def processes_of(folder: Path) -> list[Process]:
    """What runs with its temporary files there: the demo, and all that it started."""
    return [each for each in processes() if str(folder) in (environment_value(each.pid, "TMPDIR") or "")]


class OutputReader(threading.Thread):
    """Reads a screen or pipe until its writers have ended, so that they never wait for it."""

    def __init__(self, screen: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._screen = screen
        self._parts: list[bytes] = []
        self.start()

    def run(self) -> None:
        with suppress(OSError):  # EIO: a screen whose last writer has ended
            while part := self._screen.read(65536):
                self._parts.append(part)

    def text(self) -> str:
        """All of it, once it has ended."""
        self.join(30.0)
        return b"".join(self._parts).decode()


def suspended(folder: Path) -> bool:
    """Whether one of them is."""
    return any(each.is_stopped for each in processes_of(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One run of the command, in a folder of its own, in which nothing is left.

    The user's settings are another cluster's, and not even right.
    """
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tmp").mkdir()
    settings = folder / ".config" / "tally" / "tally.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('etcd = "http://127.0.0.1:1"\nuser = "somebody"\nno_such_setting = 1\n')
    page = folder / "page.html"
    done = subprocess.run(
        demo_command("--html", str(page)),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**environment(folder / "tmp"), "HOME": str(folder)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert list((folder / "tmp").iterdir()) == []
    assert processes_of(folder / "tmp") == []
    last = done.stdout[done.stdout.rindex("FREE AFTER") :]
    tables = [
        {found["name"]: _row(found) for line in part.splitlines() if (found := ROW.match(line))}
        for part in last.split("GIVEN OUT")
    ]
    return Shown(done.stdout, page.read_text(), tables)


def _row(found: re.Match[str]) -> Row:
    return Row([int(number) for number in found["numbers"].split()], int(found["refused"]), found["verdict"])


@pytest.mark.slow
def test_nobody_decides_one_after_another_each_unit_is_given_back_three_times(run: Shown) -> None:
    assert run.tables[0]["nobody decides, one after another"] == (
        [60, 120, 180, 180],
        0,
        "wrong: 120 too many",
    )


@pytest.mark.slow
def test_nobody_decides_in_a_race_units_are_given_back_twice_and_updates_are_lost(run: Shown) -> None:
    numbers, refused, verdict = run.tables[0]["nobody decides, in a race"]
    assert 66 <= numbers[-1] <= 180
    assert numbers == sorted(numbers)
    assert (refused, verdict) == (0, f"wrong: {numbers[-1] - 60} too many")


@pytest.mark.slow
def test_a_version_on_the_balance_alone_loses_no_update_and_gives_back_three_times(run: Shown) -> None:
    numbers, _, verdict = run.tables[0]["only the balance is versioned"]
    assert (numbers, verdict) == ([60, 120, 180, 180], "wrong: 120 too many")


@pytest.mark.slow
def test_versions_on_both_are_right_and_most_transactions_are_in_vain(run: Shown) -> None:
    numbers, refused, verdict = run.tables[0]["task and balance versioned, all write"]
    assert numbers == [20, 40, 60, 60]
    assert 2 <= refused <= 120
    assert verdict == f"right, {refused} tries in vain"


@pytest.mark.slow
def test_a_leader_without_a_fence_writes_late_and_units_are_lost(run: Shown) -> None:
    assert run.tables[0]["one leader without a fence"] == ([20, 40, 60, 31], 0, "wrong: 29 lost")


@pytest.mark.slow
def test_a_fence_refuses_the_late_write(run: Shown) -> None:
    assert run.tables[0]["one leader with a fence"] == ([20, 40, 60, 60], 1, "right")


@pytest.mark.slow
def test_tally_is_right_although_one_leader_is_killed_and_one_suspended(run: Shown) -> None:
    numbers, _, verdict = run.tables[0]["Tally, one leader killed, one suspended"]
    assert (numbers, verdict.partition(",")[0]) == ([20, 40, 60, 60], "right")


@pytest.mark.slow
def test_acquisitions_without_a_compare_give_out_too_much_in_every_round(run: Shown) -> None:
    assert run.tables[1]["nobody decides, all read first"] == (
        [60, 120, 180, 180],
        0,
        "wrong in 60 of 60 rounds",
    )
    assert run.tables[1]["the balance is versioned"] == ([20, 40, 60, 60], 120, "right, 120 tries in vain")


@pytest.mark.slow
def test_tally_gives_out_what_there_is(run: Shown) -> None:
    numbers, _, verdict = run.tables[1]["Tally"]
    assert (numbers, verdict.partition(",")[0]) == ([20, 40, 60, 60], "right")


@pytest.mark.slow
def test_the_audit_ran_and_found_nothing(run: Shown) -> None:
    assert re.search(
        r"\$ tally audit\nCluster .* 120 tasks, 2 pools\. Engine process: 120 attempts\.\nNothing is wrong\.",
        run.output,
    )


@pytest.mark.slow
def test_the_page_has_every_curve_and_needs_nothing_else(run: Shown) -> None:
    """It is well-formed, fetches nothing, and each curve ends where the table's row does."""
    assert not re.search(r"<script|https?://|src=|url\(", run.page)
    body = run.page.partition("<body>")[2].partition("</body>")[0]
    figures = ElementTree.fromstring(f"<body>{body}</body>").findall(".//figure")
    rows = [row for table in run.tables for row in table.items()]
    assert len(figures) == len(rows) == 10
    for figure, (name, row) in zip(figures, rows, strict=True):
        assert figure.findtext(".//h3") == name
        assert figure.findtext(".//strong") == row.verdict
        assert figure.get("class") == row.verdict.partition(":")[0].partition(",")[0].partition(" ")[0]
        line = figure.find(".//polyline[@class='recorded']")
        assert line is not None
        heights = [float(point.partition(",")[2]) for point in (line.get("points") or "").split()]
        # the curve's scale: 0 at the first point, and what the row shows at the last
        of_truth = figure.find(".//polyline[@class='truth']")
        assert of_truth is not None
        bottom, sixty = (float(point.partition(",")[2]) for point in (of_truth.get("points") or "").split())
        shown = 60 * (bottom - heights[-1]) / (bottom - sixty)
        assert heights[0] == bottom
        assert shown == pytest.approx(row.numbers[-1], abs=0.2)


@pytest.mark.parametrize(
    ("number", "on_terminal"),
    [
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
        pytest.param(signal.SIGHUP, False, id="SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    tmp_path: Path, number: signal.Signals, on_terminal: bool
) -> None:
    """Also while a naive leader is suspended, which no SIGTERM would end. On a terminal, the table grows.

    Further signals, until it has ended, neither keep anything from being stopped nor change the exit code.
    """
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            demo_command(),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.STDOUT,
            env={**environment(tmp_path), "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
            start_new_session=True,
        )
        os.close(theirs)
        reader = OutputReader(screen)
        try:
            if on_terminal:
                wait_until(lambda: suspended(tmp_path), "a suspended leader", timeout=120)
            else:
                wait_until(lambda: len(processes_of(tmp_path)) > 3, "etcd and naive replicas", timeout=120)
            code = signalled_to_its_end(process, number)
        finally:
            process.kill()
            process.wait()
        output = reader.text()
    assert code == 130, output
    assert "Traceback" not in output
    assert not on_terminal or output.count("nobody decides, one after another") > 2, output
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (lambda folder: ["--html", str(folder)], "--html: .* is not a regular file"),
        (lambda folder: ["--html", str(folder / "no" / "page")], "--html: .* No such file or directory"),
        (lambda _: ["--lang", "fr"], "--lang: 'fr' is not one of en, zh"),
    ],
    ids=["folder", "missing folder", "language"],
)
def test_bad_arguments_are_refused_before_anything_runs(
    tmp_path: Path, arguments: Callable[[Path], list[str]], why: str
) -> None:
    done = subprocess.run(
        demo_command(*arguments(tmp_path)), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(why, done.stderr)
