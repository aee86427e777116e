"""Python functions as tasks: results, errors and cancellation, on replicas that run attempts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from pathlib import Path
from typing import cast

import pytest

from controller.client import Client
from controller.client.views import TasksLook
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from controller.errors import Closed, InvalidField
from controller.executor import CallFailed, TallyExecutor
from controller.store.etcd.store import EtcdStore
from tests.support.etcd import compact
from tests.support.local import QUICK, leader_of, local_cluster
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
Make = Callable[..., TallyExecutor]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with (
        local_cluster(tmp_path_factory.mktemp("c") / "data", replicas=2, settings=QUICK) as cluster,
        cluster.client() as client,
    ):
        client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def make(client: Client, tmp_path: Path) -> Iterator[Make]:
    made: list[TallyExecutor] = []

    def executor(**options: object) -> TallyExecutor:
        made.append(TallyExecutor(client, folder=str(tmp_path / "calls"), **options))  # type: ignore[arg-type]
        return made[-1]

    yield executor
    for each in made:
        for future in list(each._futures.values()):
            future.cancel()
        each.shutdown(cancel_futures=True)


def test_calls_return_what_their_functions_return(make: Make, tmp_path: Path) -> None:
    """Closures and keyword arguments travel; nothing is left in the folder."""
    factor = 7
    with make() as executor:
        future = executor.submit(lambda x, *, y: factor * x + y, 5, y=1)
        assert future.result(60) == 36
        assert (future.done(), future.running(), future.cancel()) == (True, False, False)
        assert list(executor.map(lambda a, b: (a, b, os.getpid()), range(3), "xyz"))[2][:2] == (2, "z")
    assert list((tmp_path / "calls").iterdir()) == []
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(print)


def test_map_keeps_the_order_and_joins_calls(make: Make, client: Client) -> None:
    """With `chunksize`, one task has several calls."""
    executor = make(name="squares")
    assert list(executor.map(lambda x: x * x, range(10), chunksize=4)) == [x * x for x in range(10)]
    assert len([view for view in client.tasks() if view.id.startswith("squares-")]) == 3
    assert list(executor.map(abs, [])) == []
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_an_exception_is_raised_where_the_result_is_asked_for(make: Make) -> None:
    """The function's own exception, with the trace of the task."""

    def divide(x: int) -> float:
        return 1 / x

    class Odd(Exception):
        def __init__(self, one: int, other: int) -> None:
            super().__init__(f"{one}-{other}")

    def odd() -> None:
        raise Odd(1, 2)

    executor = make()
    with pytest.raises(RuntimeError, match="Odd: 1-2"):
        executor.submit(odd).result(60)
    with pytest.raises(ZeroDivisionError) as caught:
        executor.submit(divide, 0).result(60)
    assert "in divide" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="cannot be pickled"):
        executor.submit(threading.Lock).result(60)


def test_a_call_that_raises_is_tried_again(make: Make, tmp_path: Path) -> None:
    """As `retry` says; the result is that of the last attempt."""
    marks = tmp_path / "marks"

    def once_more() -> str:
        with marks.open("a") as file:
            file.write("x")
        if marks.stat().st_size < 2:
            raise OSError("not yet")
        return os.environ["TALLY_ATTEMPT"]

    executor = make(retry={"max_attempts": 3, "backoff_seconds": 0.1})
    assert executor.submit(once_more).result(60) == "2"


def test_a_call_is_cancelled_while_it_runs_or_waits(make: Make, client: Client, tmp_path: Path) -> None:
    """Its attempt is stopped; what waits never starts."""
    marks = tmp_path / "marks"

    def sleep(name: str) -> None:
        (marks.parent / name).touch()
        time.sleep(600)

    executor = make(grace_seconds=0.2)
    runs = executor.submit(sleep, "runs")
    wait_until(runs.running, "the attempt")
    big = make(resources={"cpu": 4})
    waits = big.submit(sleep, "waits")
    assert runs.cancel()
    assert runs.cancelled()
    with pytest.raises(CancelledError):
        runs.result()
    assert waits.cancel()
    wait_until(lambda: client.get(runs.task_id).state is State.CANCELLED, "the end of the attempt")
    wait_until(lambda: client.get(waits.task_id).state is State.CANCELLED, "the end of the other")
    assert wait([runs, waits], 10, FIRST_COMPLETED).not_done == set()


def test_a_call_that_ends_without_a_result(make: Make) -> None:
    """Killed from within: the future says what is known, and where to look."""
    executor = make()
    with pytest.raises(CallFailed, match=r"wrote no result.*tally logs"):
        executor.submit(lambda: os._exit(3)).result(60)


def test_what_is_wrong_is_said_at_once(make: Make) -> None:
    """Before anything is stored."""
    with pytest.raises(InvalidField, match="resources"):
        make(resources={"cpu": "many"}).submit(abs, 1)
    with pytest.raises(InvalidField, match="command: is the executor's"):
        make(command=["x"])
    with pytest.raises(TypeError, match="pickle"):
        make().submit(len, threading.Lock())


def test_of_calls_of_which_one_is_refused_none_is_left(make: Make, client: Client, tmp_path: Path) -> None:
    """Nobody would wait for them: those that were stored are cancelled, and their files removed."""
    owners = {"owners": {"*": {"max_queued": 3}}}
    client.apply_pool({"name": "narrow", "capacity": {"cpu": 4}, "sharing": owners})
    executor = make(pool="narrow", resources={"cpu": 3})
    with pytest.raises(InvalidField, match="max_queued") as caught:
        executor.map(time.sleep, [600.0] * 9)
    assert caught.value.__notes__ == ["3 calls were submitted before, and are cancelled"]
    ended = client.wait([view.id for view in client.tasks(pool="narrow")], timeout_seconds=60)
    assert [view.state for view in ended.values()] == [State.CANCELLED] * 3
    with pytest.raises(TypeError, match="pickle"):
        executor.map(len, ["", threading.Lock()])
    assert [*(tmp_path / "calls").iterdir()] == []


def test_a_folder_may_be_named_from_here(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks have another working folder."""
    monkeypatch.chdir(tmp_path)
    with TallyExecutor(client, folder="calls") as executor:
        assert executor.submit(abs, -1).result(60) == 1


def test_a_call_that_has_ended_is_not_cancelled(
    make: Make, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while its result is being read, which may take long."""
    executor, go_on = make(), threading.Event()
    result = executor._calls.result

    def slowly(name: str, attempt: int) -> object:
        assert go_on.wait(60)
        return result(name, attempt)

    monkeypatch.setattr(executor._calls, "result", slowly)
    future = executor.submit(abs, -1)
    client.wait([future.task_id], timeout_seconds=60)
    assert not future.cancel()
    go_on.set()
    assert future.result(60) == 1


def test_calls_survive_the_leader(make: Make, cluster: LocalCluster) -> None:
    """A take-over loses no call, and runs none twice."""
    executor = make()

    def slow(number: int) -> int:
        time.sleep(0.5)
        return number

    results = executor.map(slow, range(12))
    leader = leader_of(cluster)
    assert leader.process is not None
    leader.process.kill()
    assert list(results) == list(range(12))
    cluster.start_replica(leader)


def test_the_example(cluster: LocalCluster, tmp_path: Path) -> None:
    """As a data scientist would run it."""
    environ = {**os.environ, "TALLY_ETCD": cluster.endpoint, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "examples" / "search.py"), str(tmp_path / "calls")],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, "the best of 10 rates is" in ran.stdout) == (0, True), ran.stderr


def test_names_do_not_collide(make: Make) -> None:
    """Two executors of one name have tasks of their own."""
    first, second = make(), make()
    assert [first.submit(abs, -1).result(60), second.submit(abs, -2).result(60)] == [1, 2]


def test_no_call_is_waited_for_in_vain(make: Make, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch may break off in any way, and what it lacks when it goes on has been removed meanwhile."""
    watch, begun = client.watch_tasks, threading.Event()
    submitted, go_on = threading.Event(), threading.Event()

    def breaking(**given: object) -> Iterator[TasksLook]:
        if not begun.is_set():
            begun.set()
            raise RuntimeError("unforeseen")
        assert submitted.wait(60)
        looks = watch(**given)  # type: ignore[arg-type]
        for look in looks:
            yield look
            if any(view.finished for view in look):
                break
        assert go_on.wait(60)
        yield TasksLook([], is_whole=True)  # loaded again
        yield from looks

    monkeypatch.setattr(client, "watch_tasks", breaking)
    executor = make()
    future = executor.submit(time.sleep, 0.0)
    waiting = executor.submit(time.sleep, 3600.0)
    submitted.set()
    assert future.result(60) is None
    go_on.set()
    with pytest.raises(CallFailed, match="was removed before its result was read"):
        waiting.result(60)
    client.cancel(waiting.task_id)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_result_is_read_also_if_its_task_was_removed_unseen(
    cluster: LocalCluster, client: Client, tmp_path: Path, is_compacted: bool
) -> None:
    """The network was away for longer than the task was kept; etcd may have forgotten how it ended."""
    port = int(cluster.endpoint.rpartition(":")[2])
    with Proxy(port) as proxy, Client(proxy.url) as far:
        executor = TallyExecutor(far, folder=str(tmp_path / "calls"), retention_seconds=0.1)
        (began := tmp_path / "began").mkdir()
        go = tmp_path / "go"
        futures = [executor.submit(_begins_and_waits, began / str(n), go, n) for n in range(3)]
        wait_until(lambda: len(list(began.iterdir())) == 3, "the calls")
        proxy.refuse()
        go.touch()
        names = {future.task_id for future in futures}
        wait_until(lambda: names.isdisjoint({view.id for view in client.tasks()}), "the removal of the tasks")
        if is_compacted:
            compact(cast(EtcdStore, client.store), client._reading.model("pools/").revision)
        proxy.heal()
        assert [future.result(60) for future in futures] == [0, 1, 2]
        executor.shutdown()
    assert not list((tmp_path / "calls").iterdir())


def _begins_and_waits(began: Path, go: Path, result: int) -> int:
    began.touch()
    while not go.exists():
        time.sleep(0.05)
    return result


def test_a_client_that_is_closed_leaves_nobody_waiting(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.client() as lent:
        executor = TallyExecutor(lent, folder=str(tmp_path / "calls"))
        future = executor.submit(time.sleep, 3600.0)
        wait_until(future.running, "the call")
    with pytest.raises(Closed):
        future.result(60)
    with pytest.raises(Closed):
        executor.submit(abs, -1)
    executor.shutdown()
    with cluster.client() as client:
        assert client.get(future.task_id).state is State.RUNNING
        client.cancel(future.task_id)


def test_an_executor_ends_as_soon_as_its_last_call_has(make: Make) -> None:
    """The last result is read before the readers are shut down."""
    for _ in range(8):
        with make() as executor:
            future = executor.submit(abs, -1)
        assert future.result(0) == 1
