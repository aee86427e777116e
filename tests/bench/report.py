"""What is made of the figures: one table, one JSON document with the machine beside it, and the page of
results.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from controller.dev.etcd import find_etcd
from tests.bench.measure import Figure
from tests.bench.stage import ROOT, bench_folder, filesystem

PAGE = ROOT / "tests" / "bench" / "RESULTS.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
COLUMNS = ("row", "what", "median", "spread", "ratio", "aim", "durability")
CHARTED = ("B2", "B9", "PEERS")
BUSY_PERCENT = 10.0
"""Above this, before anything is measured, others use the machine, and the figures are preliminary."""

_PACKAGES = ("requests", "urllib3", "kubernetes", "msgspec", "starlette", "uvicorn")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy that was before."""
    folder = bench_folder()
    busy = psutil.cpu_percent(interval=2.0)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "file_system": filesystem(folder),
        "fsync_ms": round(1000 * fsync_seconds(folder), 2),
        "busy_percent_before": busy,
        "quiet": busy <= BUSY_PERCENT,
    }


def fsync_seconds(folder: Path, times: int = 100) -> float:
    """The median of appending 8 KiB and fdatasync, which is what etcd waits for in each commit."""
    path, samples = folder / "fsync", []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(samples)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"python": platform.python_version(), "etcd": ".".join(map(str, find_etcd().version))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit that is measured, with a + when files differ from it; "unknown" outside a clone."""
    try:
        return _git("rev-parse", "--short=12", "HEAD") + (
            "+" if _git("status", "--porcelain", "--", "controller", "tests") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


@dataclass
class Report:
    """Figures as they come, and what could not be measured, with why."""

    mode: str
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    commit: str = field(default_factory=commit)
    began: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    figures: list[Figure] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The whole document."""
        fields = ("mode", "machine", "versions", "commit", "began", "seconds", "skipped")
        return {name: getattr(self, name) for name in fields} | {
            "figures": [figure.to_json() for figure in self.figures]
        }

    def write(self, path: Path) -> None:
        """Write the document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def show(self, console: Console) -> None:
        """Print the table, and what is missing from it."""
        document = self.to_json()
        table = Table(
            title=f"Tally {self.commit}, {self.mode}: {describe(document)}",
            caption=_notes(document),
            show_lines=False,
        )
        for column in COLUMNS:
            table.add_column(
                column, justify="right" if column in ("median", "spread") else "left", overflow="fold"
            )
        row = ""
        for figure in self.figures:
            if row and figure.row != row:
                table.add_section()
            row = figure.row
            table.add_row(*figure.cells())
        console.print(table)


def describe(document: dict[str, Any]) -> str:
    """The machine and the versions in one sentence."""
    on, of = document["machine"], document["versions"]
    return (
        f"{on['cores']} cores of {on['cpu']}, {on['memory_gib']:g} GiB, {on['file_system']} (8 KiB with"
        f" fdatasync: {on['fsync_ms']:g} ms), Python {of['python']}, etcd {of['etcd']}"
    )


def _notes(document: dict[str, Any]) -> str:
    notes = [f"{figure['row']}: {figure['note']}" for figure in document["figures"] if figure["note"]]
    notes += [f"{each['row']}: not measured: {each['reason']}" for each in document["skipped"]]
    if preliminary := _preliminary(document):
        notes.insert(0, preliminary)
    return "\n".join(dict.fromkeys(notes))


def _preliminary(document: dict[str, Any]) -> str:
    """What must be known of figures from a machine that others used; empty for a quiet one."""
    if document["machine"]["quiet"]:
        return ""
    busy = document["machine"]["busy_percent_before"]
    return (
        f"Preliminary: {busy:.0f} % of the machine was in use by others before this run, so no verdict on an"
        " aim counts yet."
    )


def markdown(document: dict[str, Any]) -> str:
    """The figures as Markdown, with what they were measured on."""
    began = datetime.datetime.fromisoformat(document["began"])
    rows = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    rows += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in figure["cells"]) + " |"
        for figure in document["figures"]
    ]
    preliminary = _preliminary(document)
    notes = [f"- {line}" for line in _notes(document).splitlines() if line != preliminary]
    mode = "make bench-full" if document["mode"] == "full" else "make bench"
    head = (
        f"Measured on {began:%Y-%m-%d} with `{mode}` at commit `{document['commit']}`: {describe(document)}."
    )
    head += f"\n**{preliminary}**" if preliminary else ""
    return "\n".join([head, "", *chart(document), *rows, *(["", *notes] if notes else [])])


def chart(document: dict[str, Any]) -> list[str]:
    """Bars of what burns down in a second, here and in other systems, as a Mermaid diagram; none without."""
    bars = {
        f"{figure['row']} {figure['what'].partition(':')[0]}".replace('"', "'"): round(figure["median"])
        for figure in document["figures"]
        if figure["unit"] == "tasks/s" and figure["row"] in CHARTED
    }
    if not bars:
        return []
    names = ", ".join(f'"{name}"' for name in bars)
    return [
        "```mermaid",
        "xychart-beta horizontal",
        '    title "Tasks that end in a second"',
        f"    x-axis [{names}]",
        f'    y-axis "tasks/s" 0 --> {max(bars.values())}',
        f"    bar [{', '.join(map(str, bars.values()))}]",
        "```",
        "",
    ]


def publish(document: dict[str, Any]) -> None:
    """Put the figures between the two marks of RESULTS.md. Raises SystemExit when the marks are not there."""
    before, begin, rest = PAGE.read_text().partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no part between {BEGIN} and {END}")
    PAGE.write_text(f"{before}{begin}{markdown(document)}\n{end}{after}")
