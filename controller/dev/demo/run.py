"""Runs `tally demo`: all designs on one etcd in a folder of its own, of which nothing is left."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.clock import SystemClock
from controller.config import variable_of
from controller.dev.cluster import DevOptions, LocalCluster
from controller.dev.demo.course import ACQUISITION, RELEASE, REPLICAS, Course, Design
from controller.dev.demo.designs import Naive
from controller.dev.demo.page import page_of
from controller.dev.demo.promise import Promise
from controller.dev.demo.replicas import DemoFailed, NaiveReplicas
from controller.dev.demo.result import DemoResult
from controller.dev.demo.table import lines_of
from controller.dev.demo.words import WORDS, Language, Words, conclusion_of, filled
from controller.dev.ports import is_free
from controller.dev.run import interruptible
from controller.errors import UserError
from controller.signals import unbroken
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.terminal import say, say_lines

LEASE_SECONDS = 3  # of Tally's leader: with the default of 5, the demo would only take longer
TALLYS = (Design.TALLY, Design.TALLY_ACQUIRE)
PORTS = range(15_000, 32_000)  # below those that Linux gives to connections


Progress = Callable[[Course, bool], None]
"""Told of a course that has gone on, and whether that was its end."""


def run_demo(language: Language, html: Path | None) -> int:
    """Run it in the foreground; returns the exit code: 1 if something was not as claimed.

    Raises DevError, EtcdFailed, DemoFailed and StoreError; UserError if the file cannot be written after all.
    """
    words = WORDS[language]
    with own_cluster() as cluster, _view(words, etcd_of(cluster)) as progress:
        result = perform(cluster, progress)
    say_lines("\n".join(ending(words, result)))
    if html is not None:
        try:
            html.write_text(page_of(words, language, result), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html: {html} cannot be written: {error.strerror}") from error
        say(filled(words.page, file=html))
    return 0 if result.is_as_claimed else 1


@contextmanager
def own_cluster() -> Iterator[LocalCluster]:
    """A cluster whose etcd runs, in a folder of its own. Neither it nor its processes outlast the context."""
    folder = Path(tempfile.mkdtemp(prefix="tally-demo-"))
    try:
        first = _free_ports(2 + REPLICAS)
        cluster = LocalCluster(
            DevOptions(
                replicas=REPLICAS,
                data_dir=folder,
                samples=False,
                etcd_port=first,
                status_port=first + 2,
                settings={variable_of("lease_ttl_seconds"): str(LEASE_SECONDS)},
            )
        )
        with interruptible(cluster):
            try:
                cluster.start_etcd()
                yield cluster
            finally:
                with unbroken():
                    cluster.stop()
                    shutil.rmtree(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing of it ran


def perform(cluster: LocalCluster, progress: Progress) -> DemoResult:
    """Run all designs, in turn, on a cluster whose etcd runs."""
    courses: list[Course] = []

    def finish(*ended: Course) -> None:
        for course in ended:
            courses.append(course)
            progress(course, True)

    def shown(course: Course) -> None:
        cluster.stop_if_told()
        progress(course, False)

    clock = SystemClock()
    options = GatewayOptions((cluster.endpoint,), **cluster.client_files)
    store = EtcdStore(options, clock)
    try:
        with NaiveReplicas(options, cluster.data_dir / "logs" / "naive.log") as replicas:
            naive = Naive(replicas, store, clock, shown)
            for design in (*RELEASE, *ACQUISITION):
                if design not in TALLYS:
                    finish(naive.run(design))
    finally:
        store.close()
    promise = Promise(cluster, shown)
    released, acquired, audit = promise.run()
    finish(released, acquired)
    return DemoResult(etcd_of(cluster), tuple(courses), audit, promise.take_over_seconds)


def ending(words: Words, result: DemoResult) -> list[str]:
    """The last lines: both tables, whole, what was forced, and what `tally audit` says."""
    return [
        "",
        *lines_of(words, RELEASE, result.courses),
        "",
        *lines_of(words, ACQUISITION, result.courses),
        "",
        filled(words.take_over, seconds=f"{result.take_over_seconds:.2f}"),
        words.audit,
        *result.audit.text.splitlines(),
        "",
        conclusion_of(words, result),
    ]


def opening(words: Words, etcd: str) -> list[str]:
    """The first lines: what runs, and what is forced."""
    return [
        words.title,
        *(filled(line, etcd=etcd) for line in words.what),
        "",
        words.pauses,
        *(f"  - {filled(line)}" for line in words.pause),
        "\n",
    ]


class _Plain:
    """Rows as they are ready, each table under its head."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._head = ""

    def show(self, course: Course, ended: bool) -> None:
        """See Progress."""
        if not ended:
            return
        head, truth, row = lines_of(self._words, (course.design,), (course,))
        for line in (head, truth) if head != self._head else ():
            say(line)
        self._head = head
        say(row, flush=True)


@contextmanager
def _view(words: Words, etcd: str) -> Iterator[Progress]:
    """Rows that grow, on a terminal; else a row at the end of each course."""
    say_lines("\n".join(opening(words, etcd)))
    if not sys.stdout.isatty():
        yield _Plain(words).show
        return
    from rich.live import Live
    from rich.text import Text

    found: dict[Design, Course] = {}

    def table() -> Text:
        courses = list(found.values())
        lines = [*lines_of(words, RELEASE, courses), "", *lines_of(words, ACQUISITION, courses)]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    with Live(table(), refresh_per_second=8, transient=True) as live:

        def progress(course: Course, _ended: bool) -> None:
            found[course.design] = course
            live.update(table())

        try:
            yield progress
        except BaseException:
            live.transient = False  # what there is stays on the screen
            raise


def etcd_of(cluster: LocalCluster) -> str:
    """Its version."""
    return f"etcd {'.'.join(map(str, cluster.etcd.binary.version))}"


def _free_ports(count: int) -> int:
    """The first of so many ports in a row on which nobody listens. Raises DemoFailed."""
    for _ in range(100):
        first = random.SystemRandom().choice(PORTS)
        if all(map(is_free, range(first, first + count))):
            return first
    raise DemoFailed(f"no {count} ports in a row are free between {PORTS.start} and {PORTS.stop}")
