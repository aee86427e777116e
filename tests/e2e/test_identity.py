"""Who am I, and is this my engine (faults 40 and 42), on real etcds, replica processes and attempts.

Whatever is tried here, no attempt runs twice at once and nothing that runs is given up: the tasks' own
journal is the witness.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.dev.cluster import LocalCluster, ReplicaProcess
from controller.store.base import Delete, Guard, Put, Transaction
from tests.cli.conftest import Answer
from tests.support.local import (
    QUICK,
    Gate,
    Journal,
    add_replica,
    check_promise,
    is_ready,
    leader_of,
    leads,
    local_cluster,
    logged,
)
from tests.support.waiting import wait_until


def submit(cluster: LocalCluster, task_id: str, command: list[str]) -> None:
    with cluster.client() as client:
        client.submit({"id": task_id, "command": command, "resources": {"cpu": "10m"}})


def until(cluster: LocalCluster, task_id: str, state: State) -> None:
    with cluster.client() as client:
        wait_until(lambda: client.get(task_id).state is state, f"{task_id} {state}", timeout=60.0, poll=0.1)


def attempt_of(cluster: LocalCluster, task_id: str) -> int:
    with cluster.client() as client:
        return client.get(task_id).attempt


def pool(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 4}})


def unready(replica: ReplicaProcess) -> str:
    """What a replica that is not ready says, "" when it does not answer or is ready."""
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{replica.status_port}/readyz?verbose", timeout=2, trust_env=False
        )
    except httpx.TransportError:
        return ""
    return answer.text if answer.status_code != 200 else ""


def tally(cluster: LocalCluster, *words: str) -> Answer:
    """The command, in this process."""
    unset = {key: None for key in os.environ if key.startswith("TALLY_")}
    result = CliRunner().invoke(app, [*words, "--etcd", cluster.endpoint], env=unset)
    return Answer(result.exit_code, result.stdout, result.stderr)


def at_a_terminal(typed: str, cluster: LocalCluster, *words: str) -> str:
    """What the command prints of its own, to somebody who answers its question."""
    ours, theirs = os.openpty()
    os.write(ours, f"{typed}\n".encode())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")}
    command = [sys.executable, "-m", "controller.cli.entry", *words, "--etcd", cluster.endpoint]
    done = subprocess.run(
        command, env=environment, stdin=theirs, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(theirs)
    os.close(ours)
    assert "lost for good?" in done.stdout, done
    return done.stdout + done.stderr


def until_back(cluster: LocalCluster, replica: ReplicaProcess) -> None:
    """Wait until a replica that was killed is up again."""

    def is_back() -> bool:
        cluster.tend()
        return replica.process is not None and is_ready(replica)

    replica_died = replica.process
    wait_until(
        lambda: is_back() and replica.process is not replica_died, f"{replica.name}'s return", timeout=30.0
    )


def other_folder(path: Path) -> dict[str, str]:
    return {"TALLY_STATE_DIR": str(path / "another-state")}


def no_engine(_path: Path) -> dict[str, str]:
    return {"TALLY_ENGINE": "null"}


@pytest.mark.parametrize("settings", [other_folder, pytest.param(no_engine, marks=pytest.mark.slow)])
def test_a_replica_with_another_engine_follows_and_says_why(
    tmp_path: Path, settings: Callable[[Path], dict[str, str]]
) -> None:
    """Fault 40. It does not lead even when nobody else is left, gives nothing up, and reads are answered."""
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster:
        pool(cluster)
        journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
        submit(cluster, "held", journal.command(gate.body))
        until(cluster, "held", State.RUNNING)
        (right,) = cluster.replicas
        wrong = add_replica(cluster, "wrong", **settings(tmp_path))
        wait_until(
            lambda: "the recorded engine is process" in unready(wrong), "the reason in /readyz", timeout=30.0
        )
        with cluster.client() as client:
            problem = wait_until(
                lambda: next(
                    (each.engine_problem for each in client.replicas.all() if each.id == "wrong"), ""
                ),
                "the registration",
            )
        assert "the recorded engine is process" in problem
        assert "wrong does not campaign" in tally(cluster, "get", "replicas").err
        assert "wrong does not campaign" in tally(cluster, "check").out
        assert right.process is not None
        right.process.kill()
        wait_until(
            lambda: logged(cluster, wrong, event="not a candidate"), "the refusal to campaign", timeout=30.0
        )
        assert not leads(wrong)
        tasks = httpx.get(
            f"http://127.0.0.1:{wrong.status_port}/v1/tasks/held", timeout=5, trust_env=False
        ).json()
        assert tasks["state"] == "Running"
        until_back(cluster, right)
        assert leader_of(cluster) is right
        gate.open()
        until(cluster, "held", State.SUCCEEDED)
        assert attempt_of(cluster, "held") == 1
        check_promise(cluster, journal, ["held"])


def test_a_state_folder_that_is_made_anew_is_another_engine(tmp_path: Path) -> None:
    """Fault 40: moved away, and made anew by a replica that starts, while one leads.

    Nothing is given up; put back, all goes on.
    """
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster:
        pool(cluster)
        journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
        submit(cluster, "held", journal.command(gate.body))
        until(cluster, "held", State.RUNNING)
        (leader,) = cluster.replicas
        away = tmp_path / "away"
        cluster.state_dir.rename(away)
        second = add_replica(cluster, "second")  # makes the folder anew
        wait_until(
            lambda: all("the recorded engine is" in unready(replica) for replica in (leader, second)),
            "both to follow",
            timeout=60.0,
        )
        wait_until(lambda: not leads(leader), "its term to end")
        assert attempt_of(cluster, "held") == 1
        (cluster.state_dir).rename(tmp_path / "the-new-one")
        away.rename(cluster.state_dir)
        leader_of(cluster)
        gate.open()
        until(cluster, "held", State.SUCCEEDED)
        assert attempt_of(cluster, "held") == 1
        check_promise(cluster, journal, ["held"])


def test_the_engine_is_changed_on_purpose_only(tmp_path: Path) -> None:
    """`tally engine adopt` refuses while something holds; told to forget what runs, it says what that
    means, and the term ends.
    """
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster:
        pool(cluster)
        gate = Gate(tmp_path / "gate")
        submit(cluster, "held", ["sh", "-c", gate.body])
        until(cluster, "held", State.RUNNING)
        (old,) = cluster.replicas
        settings = other_folder(tmp_path)
        new = add_replica(cluster, "new", **settings)
        to_new = ("engine", "adopt", "--engine", "process", "--state-dir", settings["TALLY_STATE_DIR"])
        wait_until(lambda: unready(new), "the new one to follow", timeout=30.0)
        refused = tally(cluster, *to_new)
        assert (refused.exit_code, "resources are held by 1 task." in refused.err) == (1, True), refused
        assert "runs beside any attempt that still runs" in refused.err
        shown = tally(cluster, "engine", "show", "-o", "json").document
        assert shown["holding"] == ["held"]
        assert shown["here"]["difference"] == ""
        forced = tally(cluster, *to_new, "--forget-running")
        assert forced.exit_code == 0, forced.err
        assert "given up: 1 task: held" in forced.out
        wait_until(lambda: leads(new), "the new one to lead", timeout=30.0)
        wait_until(lambda: "the recorded engine is" in unready(old), "the old one to follow", timeout=30.0)
        gate.open()


def test_two_installations_of_one_name_share_a_state_folder(tmp_path: Path) -> None:
    """Fault 42.

    Each runs its own to the end, under the same names even; each says that the other is there.
    """
    with local_cluster(tmp_path / "one", replicas=1, settings=QUICK) as one:
        shared = {**QUICK, "TALLY_STATE_DIR": str(one.state_dir)}
        with local_cluster(tmp_path / "two", replicas=1, settings=shared) as two:
            journals = {}
            gates = {}
            for name, cluster in (("one", one), ("two", two)):
                pool(cluster)
                journals[name], gates[name] = (
                    Journal(tmp_path / f"journal-{name}"),
                    Gate(tmp_path / f"gate-{name}"),
                )
                for number in range(3):
                    submit(cluster, f"t{number}", journals[name].command(gates[name].body))
            for cluster in (one, two):
                for number in range(3):
                    until(cluster, f"t{number}", State.RUNNING)
            # A take-over lists anew, and would stop as orphans whatever it took for its own.
            for cluster in (one, two):
                with cluster.client() as client:
                    client.replicas.step_down()
                leader_of(cluster)
            for cluster in (one, two):
                told = tally(cluster, "audit", "--state-dir", str(one.state_dir))
                assert told.exit_code == 0, told.out
                assert "has 3 attempts in the engine" in told.out
                assert (
                    "left alone, despite the same cluster name: 3 attempts"
                    in tally(cluster, "check", "--state-dir", str(one.state_dir)).out
                )
            id_of_one = tally(one, "engine", "show", "-o", "json").document["installation"]["id"]
            flags = ("--engine", "process", "--state-dir", str(one.state_dir), "--grace-seconds", "1")
            refused = tally(two, "engine", "adopt", "--installation", id_of_one, *flags)
            assert (refused.exit_code, "nothing was done" in refused.err) == (1, True), refused
            assert "3 attempts of 3 tasks: t0, t1, t2, of which 3 may still run.\n" in refused.out
            for name, cluster in (("one", one), ("two", two)):
                gates[name].open()
                for number in range(3):
                    until(cluster, f"t{number}", State.SUCCEEDED)
                    assert attempt_of(cluster, f"t{number}") == 1
                assert set(journals[name].starts().values()) == {1}


def test_what_an_installation_left_whose_etcd_was_lost_is_taken_over_on_purpose(tmp_path: Path) -> None:
    """The new one leaves it alone and says so; `tally engine adopt --installation` lists it, and stops it
    when told to.
    """
    journal = Journal(tmp_path / "journal")
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as lost:
        pool(lost)
        submit(lost, "left", journal.command("sleep 1000"))
        submit(lost, "also-left", journal.command("sleep 1000"))
        until(lost, "left", State.RUNNING)
        until(lost, "also-left", State.RUNNING)
        shared = {**QUICK, "TALLY_STATE_DIR": str(lost.state_dir)}
        old_id = tally(lost, "engine", "show", "-o", "json").document["installation"]["id"]
        (replica,) = lost.replicas
        assert replica.process is not None
        replica.process.kill()
        lost.etcd.stop()
        with local_cluster(tmp_path / "new", replicas=1, settings=shared) as cluster:
            pool(cluster)
            submit(cluster, "left", ["true"])
            until(cluster, "left", State.SUCCEEDED)
            flags = ("--engine", "process", "--state-dir", str(lost.state_dir))
            assert "2 attempts of installation" in tally(cluster, "engine", "show", *flags).out
            listed = tally(cluster, "engine", "adopt", "--installation", old_id, *flags)
            assert (listed.exit_code, "nothing was done" in listed.err) == (1, True), listed
            assert "2 attempts of 2 tasks: also-left, left, of which 2 may still run.\n" in listed.out
            assert not any(line.what == "end" for line in journal.lines())
            assert "Nothing was changed." in at_a_terminal(
                "n", cluster, "engine", "adopt", "--installation", old_id, *flags
            )
            assert not any(line.what == "end" for line in journal.lines())
            by_name = tally(
                cluster,
                "engine",
                "adopt",
                "left-1",
                "--installation",
                old_id,
                "--yes",
                "--grace-seconds",
                "1",
                *flags,
            )
            assert "1 attempt of installation" in by_name.out, by_name
            listed = tally(cluster, "engine", "adopt", "--installation", old_id, *flags)
            assert "also-left-1" in listed.out
            assert "\nleft-1" not in listed.out
            everything = tally(
                cluster, "engine", "adopt", "--installation", old_id, "--yes", "--grace-seconds", "1", *flags
            )
            assert everything.exit_code == 0, everything
            assert "2 attempts" not in tally(cluster, "engine", "show", *flags).out


def test_an_installation_of_an_older_version_keeps_what_runs(tmp_path: Path) -> None:
    """An etcd without the two keys, and a state folder without `engine.json`: adopted once, with all that
    runs in it.
    """
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster:
        pool(cluster)
        journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
        submit(cluster, "held", journal.command(gate.body))
        until(cluster, "held", State.RUNNING)
        (replica,) = cluster.replicas
        assert replica.process is not None
        replica.process.kill()
        make_older(cluster)
        until_back(cluster, replica)
        wait_until(lambda: leads(replica), "its election, which writes them", timeout=30.0)
        shown: dict[str, Any] = tally(cluster, "engine", "show", "-o", "json").document
        assert shown["installation"]["adopts_unmarked"] is True
        assert shown["here"]["difference"] == ""
        gate.open()
        until(cluster, "held", State.SUCCEEDED)
        assert attempt_of(cluster, "held") == 1
        check_promise(cluster, journal, ["held"])


def make_older(cluster: LocalCluster) -> None:
    """Take away what an older version did not write."""
    (cluster.state_dir / "default" / "engine.json").unlink()
    with cluster.client() as client:
        store, keys, deadline = client.store, client.keys, client.clock.boottime() + 10
        for key in (keys.installation, keys.engine):
            item, _ = store.get(key, deadline=deadline)
            assert item is not None
            store.commit(Transaction((Guard(key, item.mod),), (Delete(key),), Op("older")), deadline=deadline)
        for item in store.load(keys.prefix + "terms/", deadline=deadline).items:
            record = {
                name: value
                for name, value in json.loads(item.value).items()
                if name not in ("installation", "engine")
            }
            put = Put(item.key, json.dumps(record).encode())
            store.commit(Transaction((Guard(item.key, item.mod),), (put,), Op("older")), deadline=deadline)
