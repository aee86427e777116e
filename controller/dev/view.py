"""The output of `tally dev`: a live table on a terminal, else plain lines."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from controller.config import InvalidSetting, flag_of, load_settings, text_of, variable_of
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.printable import counted, one_line
from controller.core.model.resources import format_quantity
from controller.dev.cluster import CLUSTER, SAMPLE_IMAGE, WITH_IMAGES
from controller.dev.etcd import known_losses
from controller.runtime.follower import Follower
from controller.runtime.inbox import Inbox
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded, Mirror
from controller.terminal import say
from controller.views.pools import all_pools
from controller.views.replicas import all_replicas, leader_of
from controller.views.tasks import UNREADABLE, find_task, tasks_by_state

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.client import Client
    from controller.dev.cluster import LocalCluster


REFRESH_SECONDS = 0.25
RECENT = 12
PLAIN_LIMIT = 200  # transitions that are shown as lines; after them, only counts are shown


class DevView:
    """A model of the cluster, kept current like a follower's, and its changes."""

    def __init__(self, cluster: LocalCluster, tally: str) -> None:
        self.cluster = cluster
        self.tally = tally
        self._mirror = Mirror()
        self.recent: deque[str] = deque(maxlen=RECENT)
        self._states: dict[str, tuple[State | None, int]] = {}
        self._leader = ""
        self._inbox = Inbox()
        self._store = EtcdStore(GatewayOptions((cluster.endpoint,), **cluster.client_files), cluster.clock)
        self._follower = Follower(
            self._store, Keys(CLUSTER), cluster.clock, self._inbox, silence_seconds=10.0
        )
        self._follower.start()

    def close(self) -> None:
        """End the watch."""
        self._follower.close()
        self._store.close()

    def update(self) -> list[str]:
        """Take up new changes, for at most REFRESH_SECONDS, and return them as lines."""
        lines = [
            f"{each.name} died; restarting it"
            + (f": {self.cluster.folder.last_word(each.name)}" if each.ended_with > 0 else "")
            for each in self.cluster.tend()
        ]
        if self.cluster.tend_etcd():
            lines.append("etcd died; restarting it")
        changed: dict[str, None] = {}
        for message in self._inbox.take(REFRESH_SECONDS):
            if isinstance(message, Loaded | Changed):
                changed.update(self._mirror.take(message).touched.tasks)
        for task_id in changed:
            line = self._transition(task_id)
            if line:
                lines.append(line)
        office = leader_of(self.model)
        leader = office.told.id if office is not None else ""
        if leader != self._leader:
            lines.append(f"{leader} leads" if leader else "no replica leads")
            self._leader = leader
        self.recent.extend(f"{time.strftime('%H:%M:%S')}  {line}" for line in lines)
        return lines

    @property
    def model(self) -> Model:
        """The model, as far as changes have arrived."""
        return self._mirror.model

    def _transition(self, task_id: str) -> str:
        task = find_task(self.model, task_id)
        if task is None:
            self._states.pop(task_id, None)
            return ""
        now = (task.state, task.attempt)
        before = self._states.get(task_id)
        self._states[task_id] = now
        if before == now:
            return ""
        attempt = f" (attempt {task.attempt})" if task.attempt > 1 else ""
        reason = f": {task.reason}" if task.reason not in ("", "Succeeded") else ""
        return f"{task_id}  {task.state or UNREADABLE}{attempt}{reason}"

    def counts(self) -> dict[State, int]:
        """Tasks by state."""
        return tasks_by_state(self.model)

    def pools(self) -> list[tuple[str, str]]:
        """Each pool, and what is held."""
        rows = []
        for pool in all_pools(self.model):
            parts = [
                f"{resource} {format_quantity(resource, pool.held.get(resource))} of"
                f" {format_quantity(resource, pool.capacity.get(resource))}"
                for resource in pool.resources
            ]
            rows.append((pool.name, ", ".join(parts)))
        return rows

    def replicas(self) -> list[tuple[str, str, str]]:
        """Each replica: name, role, process."""
        leading = {replica.told.pid for replica in all_replicas(self.model) if replica.leads}
        return [
            (
                replica.name,
                "leader" if replica.process is not None and replica.process.pid in leading else "follower",
                f"pid {replica.process.pid}" if replica.process is not None else "down",
            )
            for replica in self.cluster.replicas
        ]


def show(cluster: LocalCluster, client: Client, samples: Sequence[Mapping[str, object]], hello: str) -> None:
    """Submit the samples and show what happens, until interrupted (KeyboardInterrupt).

    `hello` names the task to try.
    """
    view = DevView(cluster, tally_command())
    try:
        for line in banner(view, hello):
            say(line, flush=True)
        for result in client.submit_many(samples) if samples else ():
            say(f"{result.id} {result.outcome}", flush=True)
        if sys.stdout.isatty():
            _show_live(view)
        else:
            _show_plain(view, {str(sample["id"]) for sample in samples})
    finally:
        view.close()


def tally_command() -> str:
    """The command `tally` for another terminal: its name if it is on PATH, else its path."""
    own = Path(sys.executable).parent / "tally"
    found = shutil.which("tally")
    if found is not None and Path(found).resolve() == own.resolve():
        return "tally"
    with suppress(ValueError):
        return shlex.quote(str(own.relative_to(Path.cwd())))
    return shlex.quote(str(own))


def flags_from_here(cluster: LocalCluster, environ: Mapping[str, str]) -> list[str]:
    """The flags by which `tally` reaches this cluster, from this folder and with this environment."""
    if cluster.credentials is None:
        return ["--etcd", cluster.endpoint]
    wanted = {"etcd": cluster.endpoint, "cluster": CLUSTER, **cluster.client_files}
    with suppress(InvalidSetting):
        found = load_settings({}, environ).settings
        if all(text_of(getattr(found, name)) == value for name, value in wanted.items()):
            return []
    flags = ["--config", str(cluster.credentials.config)]
    for name, value in wanted.items():
        if environ.get(variable_of(name)):  # it would win over the file
            flags += [flag_of(name), str(value)]
    return flags


def banner(view: DevView, hello: str) -> list[str]:
    """Lines with addresses, and three commands to try."""
    cluster = view.cluster
    flags = "".join(f" {shlex.quote(word)}" for word in flags_from_here(cluster, os.environ))
    image = f" --image {SAMPLE_IMAGE}" if cluster.options.engine in WITH_IMAGES else ""
    config = shlex.quote(str(cluster.data_dir / "tally.toml"))
    return [
        (
            f"Tally runs here: {counted(len(cluster.replicas), 'replica')}, {cluster.etcd.binary}, engine"
            f" {cluster.options.engine}"
        ),
        *([f"  note    {losses}"] if (losses := known_losses(cluster.etcd.binary)) else []),
        f"  etcd    {cluster.endpoint}",
        *(f"  {replica.name}      http://127.0.0.1:{replica.status_port}" for replica in cluster.replicas),
        f"  data    {cluster.data_dir}, with the certificates that etcd requires: --config {config}",
        "",
        "Try in a second terminal:",
        (
            f"  {view.tally}{flags} submit {hello}{image} --wait -- sh -c 'echo hello from attempt"
            " $TALLY_ATTEMPT; sleep 2'"
        ),
        f"  kill -9 $({view.tally}{flags} get replicas --role leader -o pid)",
        f"  {view.tally}{flags} audit",
        "",
        "Ctrl-C stops everything that was started here.",
        "",
    ]


def _show_plain(view: DevView, samples: set[str]) -> None:
    shown, done = 0, False
    while True:
        for line in view.update():
            shown += 1
            if shown <= PLAIN_LIMIT or " leads" in line or "died" in line:
                say(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
            elif shown == PLAIN_LIMIT + 1:
                say(
                    f"{time.strftime('%H:%M:%S')}  … further transitions are not shown; see `{view.tally} get"
                    " tasks -w`",
                    flush=True,
                )
        tasks = [find_task(view.model, task_id) for task_id in samples]
        if (
            samples
            and not done
            and all(
                task is not None and task.status is not None and task.status.is_finished for task in tasks
            )
        ):
            done = True
            say("the sample tasks have finished; the cluster stays up", flush=True)


def _show_live(view: DevView) -> None:
    from rich.live import Live

    with Live(_table(view), refresh_per_second=4, transient=True) as live:
        while True:
            view.update()
            live.update(_table(view))


def _table(view: DevView) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    replicas = Table("REPLICA", "ROLE", "PROCESS", box=None, pad_edge=False)
    for name, role, process in view.replicas():
        replicas.add_row(name, f"[bold green]{role}[/]" if role == "leader" else role, process)
    tasks = Table(*(state.value.upper() for state in State), box=None, pad_edge=False)
    tasks.add_row(*(str(number) for number in view.counts().values()))
    pools = Table("POOL", "HELD", box=None, pad_edge=False)
    for name, held in view.pools():
        pools.add_row(Text(one_line(name)), Text(one_line(held)))
    return Group(replicas, "", tasks, "", pools, "", *(Text(one_line(line)) for line in view.recent))
