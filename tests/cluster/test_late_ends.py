"""What containers themselves wrote, against what Tally said of them: each way in which an attempt can end."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import HOLDING, State
from controller.dev.cluster import CLUSTER, LocalCluster
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from tests.cluster.conftest import option
from tests.cluster.test_cluster import PATIENCE, wait_for
from tests.support.local import kill, leader_of, wait_ready
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]
GRACE = 3
BEAT = """
file=/beats/$TALLY_TASK_ID.$TALLY_ATTEMPT
beat() { cut -d ' ' -f 1 /proc/uptime >> $file; }
ends() { while [ $1 -gt 0 ]; do beat; sleep 0.1; set -- $(($1 - 1)); done; echo end >> $file; }
"""
DEAF, BRIEF = 'trap "" TERM; ends 100000', "ends 30"
STARTING, LATER = 12, 4.0


@pytest.fixture
def beats() -> Iterator[Path]:
    """A folder of this machine, for the containers of a node that is this machine."""
    with tempfile.TemporaryDirectory(prefix="tally-beats-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def beating(task: Make, beats: Path) -> Make:
    """Makes a task that writes each tenth of a second that it lives, and `end` if it ends by itself."""
    volume = {"name": "beats", "hostPath": {"path": str(beats)}}
    mounted = {"name": "task", "volumeMounts": [{"name": "beats", "mountPath": "/beats"}]}

    def make(shell: str, **fields: Any) -> dict[str, Any]:
        of_pod = {"volumes": [volume], "containers": [mounted], **fields.pop("of_pod", {})}
        return task(BEAT + shell, pod_template={"spec": of_pod}, **{"grace_seconds": GRACE, **fields})

    return make


class Beats(NamedTuple):
    """What the container of one attempt wrote: boottimes of its first and last beat, and how it ended."""

    first: float
    last: float
    ended_by_itself: bool


def beats_of(folder: Path, task_id: str, attempt: int) -> Beats | None:
    """None: it never ran."""
    file = folder / f"{task_id}.{attempt}"
    words = file.read_text().split() if file.exists() else []
    times = [float(word) for word in words if word != "end"]
    return Beats(times[0], times[-1], words[-1] == "end") if times else None


class Releases:
    """When each attempt was seen to hold no more, by the records in etcd. boottimes, by task and attempt."""

    def __init__(self, endpoint: str) -> None:
        self._store = EtcdStore(GatewayOptions((endpoint,)), SystemClock())
        self._keys = Keys(CLUSTER)
        self._seen: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def __enter__(self) -> Releases:
        _, revision = self._store.get(self._keys.leader, deadline=SystemClock().boottime() + 10)
        self._watch = self._store.watch(self._keys.state(""), after=revision)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._thread.join()
        self._store.close()

    def _follow(self) -> None:
        for batch in self._watch:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            for event in batch.events:
                status = codec.decode_status(event.item.value)[0] if event.item else None
                if status is not None and status.state not in HOLDING:
                    self._seen[event.key.rpartition("/")[2]].setdefault(status.attempt, now)

    def of(self, task_id: str) -> dict[int, float]:
        """By attempt. An attempt that was replaced has been released before."""
        return dict(self._seen[task_id])


def contradictions(beats: Path, releases: Releases, task_id: str, state: State) -> list[str]:
    """Where what containers wrote breaks the promise, or the end that was told."""
    told, found, free_since = releases.of(task_id), [], 0.0
    for attempt, released in sorted(told.items()):
        wrote = beats_of(beats, task_id, attempt)
        if wrote is not None:
            if wrote.last > released:
                found.append(f"{task_id}-{attempt} ran {wrote.last - released:.1f} s after its release")
            if wrote.first < free_since:
                found.append(
                    f"{task_id}-{attempt} ran {free_since - wrote.first:.1f} s beside the one before"
                )
        free_since = max(free_since, wrote.last if wrote else 0.0)
    last = beats_of(beats, task_id, max(told))
    succeeded = last is not None and last.ended_by_itself
    if succeeded != (state is State.SUCCEEDED):
        found.append(
            f"{task_id} is {state}, and its container {'ended' if succeeded else 'did not end'} by itself"
        )
    for attempt in range(1, max(told)):
        wrote = beats_of(beats, task_id, attempt)
        if wrote is not None and wrote.ended_by_itself:
            found.append(f"{task_id}-{attempt} ended by itself, and there was another attempt")
    return found


@pytest.fixture
def on_this_machine(tally: LocalCluster, beating: Make, beats: Path) -> Path:
    """Skips where the node is another machine: what its containers write is not to be seen here."""
    spec = beating("ends 10")
    with tally.client() as users:
        users.submit(spec)
        users.wait([spec["id"]], timeout_seconds=PATIENCE)
    if beats_of(beats, spec["id"], 1) is None:
        pytest.skip("the node's file system is not this machine's")
    return beats


@pytest.fixture
def releases(tally: LocalCluster) -> Iterator[Releases]:
    """Of all that is released while a test runs."""
    with Releases(tally.endpoint) as followed:
        yield followed


def test_a_hold_outlives_a_container_that_begins_after_its_cancel(
    tally: LocalCluster, beating: Make, on_this_machine: Path, releases: Releases
) -> None:
    """A kubelet of 1.20 confirms the deletion of a pod that is starting, and starts it a second later."""
    specs = [beating(DEAF) for _ in range(STARTING)]
    with tally.client() as users:
        for number, spec in enumerate(specs):
            users.submit(spec)
            wait_for(tally, spec["id"], "admitted", lambda view: view.state is not State.CREATED)
            time.sleep(0.03 * number)  # at another moment of its start each
            users.cancel(spec["id"])
        views = users.wait([spec["id"] for spec in specs], timeout_seconds=PATIENCE)
    time.sleep(LATER)
    assert {view.state for view in views.values()} == {State.CANCELLED}
    assert [
        text for name in views for text in contradictions(on_this_machine, releases, name, State.CANCELLED)
    ] == []


class Act(NamedTuple):
    """What is done to an attempt that runs."""

    core: Any
    namespace: str
    users: Client
    task_id: str

    @property
    def pod(self) -> str:
        """The name of its pod."""
        return f"{self.task_id}-1"

    def cancel(self) -> None:
        """By a user."""
        self.users.cancel(self.task_id)

    def delete(self, seconds: int | None = None) -> None:
        """By hand. 0 seconds: by force."""
        self.core.delete_namespaced_pod(self.pod, self.namespace, grace_period_seconds=seconds)

    def force(self) -> None:
        """Deleted by force."""
        self.delete(0)

    def hasten(self) -> None:
        """Deleted by force while its kubelet gives it its grace: that goes on to do so."""
        self.delete()
        time.sleep(1)
        self.delete(0)

    def strip(self) -> None:
        """Deleted by force, its finalizer taken away before."""
        self.patch({"finalizers": None})
        self.delete(0)

    def evict(self) -> None:
        """By the API, as `kubectl drain` does."""
        # of no version: servers do not agree on one
        body = {"metadata": {"name": self.pod, "namespace": self.namespace}}
        self.core.create_namespaced_pod_eviction(self.pod, self.namespace, body)

    def unlabel(self) -> None:
        """Its labels are taken away: no selector finds it."""
        pod = self.core.read_namespaced_pod(self.pod, self.namespace)
        self.patch({"labels": dict.fromkeys(pod.metadata.labels)})

    def patch(self, metadata: dict[str, Any]) -> None:
        """Change its metadata."""
        self.core.patch_namespaced_pod(self.pod, self.namespace, {"metadata": metadata})

    def kill(self) -> None:
        """The kernel kills its processes, as for memory."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TALLY_TASK_ID") == self.task_id:
                    process.kill()

    def leave(self) -> None:
        """Nothing is done."""


class Way(NamedTuple):
    """How an attempt ends: what it runs, and what is done to it."""

    act: Callable[[Act], None]
    shell: str
    state: State
    fields: dict[str, Any] = {}  # noqa: RUF012  # never changed


TWICE = {"retry": {"max_attempts": 2, "backoff_seconds": 0}}
AGAIN = f"[ $TALLY_ATTEMPT = 2 ] && {{ {BRIEF}; exit; }}; {DEAF}"
"""The first attempt goes on until it is killed; the second ends by itself."""
WAYS = {
    "ends with 0": Way(Act.leave, BRIEF, State.SUCCEEDED),
    "fails": Way(Act.leave, "[ $TALLY_ATTEMPT = 2 ] || { beat; exit 3; }; ends 30", State.SUCCEEDED, TWICE),
    "cancelled, and stops": Way(Act.cancel, 'trap "exit 0" TERM; ends 100000', State.CANCELLED),
    "cancelled, and is killed": Way(Act.cancel, DEAF, State.CANCELLED),
    "over its deadline": Way(Act.leave, DEAF, State.FAILED, {"deadlines": {"run": 3}}),
    "deleted by hand": Way(Act.delete, AGAIN, State.SUCCEEDED, TWICE),
    "deleted by force": Way(Act.force, AGAIN, State.SUCCEEDED, TWICE),
    "deleted by force while it ends": Way(Act.hasten, AGAIN, State.SUCCEEDED, TWICE | {"grace_seconds": 40}),
    "deleted by force, without its finalizer": Way(Act.strip, AGAIN, State.SUCCEEDED, TWICE),
    "evicted": Way(Act.evict, AGAIN, State.SUCCEEDED, TWICE),
    "without its labels": Way(Act.unlabel, "ends 400", State.SUCCEEDED, TWICE),
    "killed by the kernel": Way(Act.kill, AGAIN, State.SUCCEEDED, TWICE),
}


def test_no_container_runs_beyond_its_release_or_beside_another_attempt(
    tally: LocalCluster, beating: Make, on_this_machine: Path, releases: Releases, core: Any, namespace: str
) -> None:
    """Whichever way an attempt ends; all at once."""
    specs = {way: beating(each.shell, **each.fields) for way, each in WAYS.items()}
    with tally.client() as users:
        users.submit_many(list(specs.values()))
        for way, spec in specs.items():
            wait_until(
                partial(beats_of, on_this_machine, spec["id"], 1), f"the first beat: {way}", timeout=PATIENCE
            )
            WAYS[way].act(Act(core, namespace, users, spec["id"]))
        views = users.wait([spec["id"] for spec in specs.values()], timeout_seconds=PATIENCE)
    time.sleep(LATER)
    ended = {way: views[spec["id"]].state for way, spec in specs.items()}
    assert ended == {way: each.state for way, each in WAYS.items()}
    found = {
        way: contradictions(on_this_machine, releases, spec["id"], WAYS[way].state)
        for way, spec in specs.items()
    }
    assert {way: texts for way, texts in found.items() if texts} == {}


def test_what_nobody_has_seen_to_end_is_held(
    tally: LocalCluster, beating: Make, on_this_machine: Path, core: Any, namespace: str, request: Any
) -> None:
    """A pod's own deadline passes while an init container runs, and somebody deletes the pod. A kubelet of
    1.20 invents its end; a newer one reports it.
    """
    mounted = [{"name": "beats", "mountPath": "/beats"}]
    shell = BEAT.replace("$TALLY_ATTEMPT", "1") + DEAF
    init = {"name": "init", "image": option(request, "image"), "command": ["sh", "-c", shell]}
    policy = {"imagePullPolicy": option(request, "pull_policy"), "volumeMounts": mounted}
    of_pod = {"activeDeadlineSeconds": 5, "initContainers": [init | policy]}
    spec = beating("true", of_pod=of_pod, grace_seconds=15)
    with tally.client() as users, Releases(tally.endpoint) as releases:
        users.submit(spec)
        wait_until(lambda: beats_of(on_this_machine, spec["id"], 1), "its first beat", timeout=PATIENCE)
        read = partial(core.read_namespaced_pod, f"{spec['id']}-1", namespace)
        wait_until(lambda: read().status.phase == "Failed", "its deadline", timeout=PATIENCE)
        Act(core, namespace, users, spec["id"]).delete()
        time.sleep(GRACE)
        users.cancel(spec["id"])
        time.sleep(15 + LATER)
        view = users.get(spec["id"])
        if not view.finished:  # its operator sees on the node that it has ended
            users.confirm_stopped(spec["id"])
            users.wait([spec["id"]], timeout_seconds=PATIENCE)
        wrote, told = beats_of(on_this_machine, spec["id"], 1), releases.of(spec["id"])
    assert wrote is not None
    assert wrote.last < told[1]


def test_what_was_seen_and_is_gone_is_not_created_again_by_the_next_leader(
    tally: LocalCluster, beating: Make, on_this_machine: Path, core: Any, namespace: str, request: Any
) -> None:
    """Its init container runs on for its whole grace, and the leader that saw it is killed."""
    mounted = [{"name": "beats", "mountPath": "/beats"}]
    one = "file=/beats/$TALLY_TASK_ID.$(cat /proc/sys/kernel/random/uuid)"
    shell = BEAT.replace("file=/beats/$TALLY_TASK_ID.$TALLY_ATTEMPT", one) + 'trap "" TERM; ends 350'
    init = {"name": "init", "image": option(request, "image"), "command": ["sh", "-c", shell]}
    policy = {"imagePullPolicy": option(request, "pull_policy"), "volumeMounts": mounted}
    of_pod = {"initContainers": [init | policy]}
    kept, cancelled = (beating("true", of_pod=of_pod, grace_seconds=25, **TWICE) for _ in range(2))

    def runs(spec: dict[str, Any]) -> list[tuple[float, float]]:
        """When each of its init containers began and ended to write."""
        files = [file.read_text().split() for file in on_this_machine.glob(f"{spec['id']}.*")]
        beats = [[float(word) for word in words if word != "end"] for words in files]
        return sorted((each[0], each[-1]) for each in beats if each)

    wait_ready(tally)
    with tally.client() as users, Releases(tally.endpoint) as releases:
        users.submit_many([kept, cancelled])
        for spec in (kept, cancelled):
            wait_until(partial(runs, spec), "its first beat", timeout=PATIENCE)
        time.sleep(3)  # it is slow to start
        users.cancel(cancelled["id"])
        for spec in (kept, cancelled):
            act = Act(core, namespace, users, spec["id"])
            act.delete()
            act.strip()
        kill(leader_of(tally), signal.SIGKILL)
        views = users.wait([kept["id"], cancelled["id"]], timeout_seconds=PATIENCE)
        told = releases.of(cancelled["id"])
    assert [views[spec["id"]].state for spec in (kept, cancelled)] == [State.SUCCEEDED, State.CANCELLED]
    assert runs(cancelled)[-1][1] < told[1]
    for spec in (kept, cancelled):
        for (_, ended), (began, _) in pairwise(runs(spec)):
            assert ended < began
