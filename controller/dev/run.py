"""Runs `tally dev` in the foreground until Ctrl-C: a cluster, sample tasks, and a view of them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from controller.client import Client
from controller.core.model.installation import decode_engine
from controller.core.model.resources import format_quantity
from controller.dev.cluster import SAMPLE_IMAGE, STOP_SECONDS, WITH_IMAGES, DevOptions, LocalCluster
from controller.dev.data_dir import DevError
from controller.dev.view import show
from controller.signals import ending_signals, ignore, interrupt


def default_pool() -> dict[str, object]:
    """A pool with all CPUs of this machine, and half of its memory, in whole MiB."""
    memory = psutil.virtual_memory().total // 2 // 2**20 * 2**20
    return {
        "name": "default",
        "capacity": {"cpu": str(os.cpu_count() or 1), "memory": format_quantity("memory", memory)},
        "default_resources": {"cpu": "100m", "memory": "64Mi"},
    }


def sample_tasks(image: str = "") -> list[dict[str, object]]:
    """Small tasks that show the lifecycle: successes, a retry that helps, a failure, a deadline, priorities.

    They have the same names in each run, so each exists only once.
    """
    shell = ["sh", "-c"]
    flaky = (
        'if [ "$TALLY_ATTEMPT" = 1 ]; then echo "first attempt fails"; exit 1; fi; echo "attempt'
        ' $TALLY_ATTEMPT succeeds"'
    )
    tasks: list[dict[str, object]] = [
        {"id": f"sample-count-{n}", "command": [*shell, f"for i in 1 2 3 4; do echo {n}: $i; sleep 1; done"]}
        for n in range(1, 7)
    ]
    tasks += [
        {
            "id": "sample-flaky",
            "command": [*shell, flaky],
            "retry": {"max_attempts": 3, "backoff_seconds": 2},
        },
        {"id": "sample-failing", "command": [*shell, "echo 'this one always fails' >&2; exit 7"]},
        {"id": "sample-overdue", "command": ["sleep", "60"], "deadlines": {"run": "5s"}, "grace_seconds": 1},
        {"id": "sample-urgent", "command": ["echo", "first in the queue"], "priority": 100},
    ]
    common = {"image": image, "resources": {"cpu": "250m", "memory": "64Mi"}, "labels": {"sample": "yes"}}
    return [{**common, **task} for task in tasks]


def _check_recorded_engine(client: Client, options: DevOptions) -> None:
    item, _ = client.store.get(client.keys.engine, deadline=client.clock.boottime() + STOP_SECONDS)
    recorded = decode_engine(item.value).engine.name if item is not None else options.engine
    if recorded != options.engine:
        raise DevError(
            f"{options.data_dir} has data of engine {recorded}: choose another --data-dir for"
            f" {options.engine}"
        )


def run_dev(options: DevOptions) -> int:
    """Run a local cluster in the foreground until Ctrl-C or SIGTERM; returns the exit code.

    Raises DevError and EtcdFailed, for example if a port is in use, or the data directory is in use or of
    another version. The messages say what to do.
    """
    cluster = LocalCluster(options)
    with interruptible(cluster):
        try:
            cluster.start()
            with cluster.client() as client:
                _check_recorded_engine(client, options)
                if not any(pool.name == "default" for pool in client.pools()):
                    client.apply_pool(default_pool())
                image = SAMPLE_IMAGE if options.engine in WITH_IMAGES else ""
                samples = sample_tasks(image) if options.samples else []
                run = _next_run(cluster.data_dir)
                show(cluster, client, samples, "hello" if run == 1 else f"hello-{run}")
        except KeyboardInterrupt:
            pass
        finally:
            if cluster.is_ours:
                _tell("\nstopping: replicas, tasks, etcd …")
                cluster.stop()
                _tell(f"stopped; the data is kept in {cluster.data_dir}")
    return 0


def _tell(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone, and what runs must be stopped all the same
        print(line, flush=True)  # noqa: T201  # a foreground command


def _next_run(data_dir: Path) -> int:
    """The number of this run on the data directory, which gives the suggested task a new name each time."""
    counter = data_dir / "runs"
    try:
        found = counter.read_bytes().strip() if counter.exists() else b""
        run = int(found) + 1 if re.fullmatch(rb"[0-9]{1,9}", found) else 1
        counter.write_text(f"{run}\n")
    except OSError as error:
        raise DevError(f"{counter} cannot be written ({error.strerror}): remove it") from None
    return run


@contextmanager
def interruptible(cluster: LocalCluster) -> Iterator[None]:
    """Make SIGTERM, and SIGHUP unless it is ignored (nohup), end the command as Ctrl-C does.

    An interrupt that Python swallows, in a destructor or while a child is created, is not lost:
    `stop_if_told` raises it, and Python need not print it. Further ones are ignored, until the process has
    ended.
    """
    report = sys.unraisablehook

    def hear(_number: int, _frame: FrameType | None) -> None:
        if not cluster.is_told_to_stop:
            cluster.is_told_to_stop = True
            interrupt()

    def report_others(swallowed: sys.UnraisableHookArgs) -> None:
        if not (cluster.is_told_to_stop and swallowed.exc_type is KeyboardInterrupt):
            report(swallowed)

    numbers = ending_signals()
    sys.unraisablehook = report_others
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield
    finally:
        sys.unraisablehook = report
        if cluster.is_told_to_stop:
            ignore(numbers)
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
