"""Faults 41 and 43: what of an attempt may still run, whatever it did to its folder, its threads and its
supervisor.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process import search as process_search
from controller.engine.process import table as process_table
from controller.engine.process.attempt_origin import Origin, this_boot
from controller.engine.process.engine import ProcessEngine
from controller.engine.process.table import pid_namespace
from tests.engine.process_cases import (
    check_death_without_supervisor,
    folder_of,
    is_running,
    kill_supervisor,
    launch,
    observation,
    record_of,
    running_pids,
    wait_for,
    wait_stopped,
)

THREAD_THAT_OUTLIVES_MAIN = """
import ctypes, os, signal, sys, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def work():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(1000)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""
"""A program whose main thread ends while another goes on; it writes its number once that is so."""

HIDDEN = (
    "os.setsid(); os.closerange(3, 256); os.execve(sys.executable, [sys.executable, '-c', 'import time;"
    " time.sleep(1000)'], {env})"
)


def python(script: str, *arguments: str) -> Launch:
    return launch(sys.executable, "-c", script, *arguments)


def number_in(path: Path) -> int:
    return int(
        wait_for(lambda: path.read_text().strip() if path.exists() else "", f"a number in {path.name}")
    )


def test_an_attempt_whose_main_thread_has_ended_runs_on(engine: ProcessEngine, tmp_path: Path) -> None:
    """Its first process is a zombie, and a thread of it works: the attempt has not ended, whoever looks."""
    given = python(THREAD_THAT_OUTLIVES_MAIN, str(tmp_path / "pid"))
    engine.start(given)
    pid = number_in(tmp_path / "pid")
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert seen.phase is Phase.RUNNING
    check_death_without_supervisor(engine, tmp_path, given.attempt, pid)


def test_a_search_finds_who_has_no_main_thread(engine: ProcessEngine, tmp_path: Path) -> None:
    """In another session and under no environment's name, so that only its threads' own descriptors show
    whose it is.
    """
    given = launch(
        "setsid", "-w", "env", "-i", sys.executable, "-c", THREAD_THAT_OUTLIVES_MAIN, str(tmp_path / "pid")
    )
    engine.start(given)
    pid = number_in(tmp_path / "pid")
    check_death_without_supervisor(engine, tmp_path, given.attempt, pid)


@pytest.mark.parametrize("child", ["setsid {} &", "{} &"], ids=["own session", "same session"])
def test_a_child_whose_main_thread_has_ended_is_stopped_with_the_rest(
    engine: ProcessEngine, tmp_path: Path, child: str
) -> None:
    """A living supervisor sees it, and does not wait for its end for ever."""
    command = child.format(f'{shlex.quote(sys.executable)} -c "$1" {tmp_path}/pid')
    given = launch("sh", "-c", f"{command} sleep 1000", "sh", THREAD_THAT_OUTLIVES_MAIN)
    engine.start(given)
    pid = number_in(tmp_path / "pid")
    engine.stop(given.attempt, grace_seconds=0.1)
    assert wait_stopped(engine, given.attempt).reason == "Stopped"
    assert not is_running(pid)


CHAIN = """
import os, sys, time
if len(sys.argv) > 2 and sys.argv[2] == "hides":
    os.closerange(3, 256)
beats, number = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0
while True:
    os.write(beats, b".")
    if os.fork():
        os._exit(0)
    number += 1
    if number % 100 == 0:
        os.setsid() if os.getsid(0) != os.getpid() and os.getpgrp() != os.getpid() else None
    time.sleep(0.0005)
"""
"""Each process forks the next and ends."""


@pytest.mark.parametrize("hides", ["keeps", "hides"])
def test_a_chain_of_fork_and_exit_is_not_missed(engine: ProcessEngine, tmp_path: Path, hides: str) -> None:
    """Its supervisor was killed, and no process of it lives for more than a millisecond: no end is told
    before it has one.
    """
    given = launch(
        "sh",
        "-c",
        f'{shlex.quote(sys.executable)} -c "$1" {tmp_path}/beats {hides} & sleep 1000',
        "sh",
        CHAIN,
    )
    engine.start(given)
    beats = tmp_path / "beats"
    wait_for(lambda: beats.exists() and beats.stat().st_size > 20, "the chain to run")
    os.kill(int(str(record_of(tmp_path, given.attempt)["supervisor"])), signal.SIGKILL)
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"
    size = beats.stat().st_size
    with pytest.raises(AssertionError):
        wait_for(lambda: beats.stat().st_size != size, "another beat", seconds=0.3)


def test_who_is_hidden_and_keeps_the_lock_is_found(engine: ProcessEngine, tmp_path: Path) -> None:
    """It left its session and cleared its environment, and its supervisor was killed: the lock that it
    inherited is left.
    """
    script = f"setsid env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & sleep 1000"
    given = launch("sh", "-c", script)
    engine.start(given)
    pid = number_in(tmp_path / "pid")
    check_death_without_supervisor(engine, tmp_path, given.attempt, pid)


def test_who_closes_the_lock_is_found_by_its_environment(engine: ProcessEngine, tmp_path: Path) -> None:
    """As daemons do that close what they inherit."""
    script = (
        f"import os, sys; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
        f" {HIDDEN.format(env='os.environ')}"
    )
    given = launch("sh", "-c", f'{shlex.quote(sys.executable)} -c "$1" & sleep 1000', "sh", script)
    engine.start(given)
    pid = number_in(tmp_path / "pid")
    check_death_without_supervisor(engine, tmp_path, given.attempt, pid)


def test_nothing_is_proven_while_a_process_that_cannot_be_seen_holds_the_lock(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another user's is not to be seen: the search finds nobody, and the lock decides."""
    with monkeypatch.context() as patch:
        patch.setattr(process_search, "pids", list)
        keeper = _keep_inherited_lock(engine, tmp_path)
        kill_supervisor(tmp_path, keeper)
        for _ in range(3):
            seen = observation(engine, keeper)
            assert seen is not None
            assert (seen.phase, seen.reason) == (Phase.UNKNOWN, "SupervisorLost")
            assert "cannot be seen" in seen.message
    assert wait_stopped(engine, keeper).reason == "SupervisorLost"


def _keep_inherited_lock(engine: ProcessEngine, tmp_path: Path) -> AttemptId:
    given = launch("sh", "-c", f"setsid sh -c 'echo $$ > {tmp_path}/keeper; exec sleep 1000' & sleep 1000")
    engine.start(given)
    number_in(tmp_path / "keeper")
    return given.attempt


@pytest.mark.parametrize("blind", ["/proc hides the processes of other users", ""])
def test_a_search_that_does_not_see_all_proves_nothing(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str
) -> None:
    """/proc with hidepid; and a machine that forks without any pause, in which no moment is certain."""
    given = launch("sleep", "1000")
    engine.start(given)
    with monkeypatch.context() as patch:
        if blind:
            patch.setattr(process_search, "why_unseen", lambda: blind)
        else:
            patch.setattr(process_search, "SEARCH_SECONDS", 0.05)
            patch.setattr(process_search, "_PASSES_IN_VAIN", 10**9)
            numbers = itertools.count(1, 2)  # another number was given out between any two looks
            patch.setattr(process_search, "next_number", lambda: next(numbers))
        kill_supervisor(tmp_path, given.attempt)
        seen = wait_for(lambda: _unseen(engine, given.attempt), "the attempt to be lost")
        assert not seen.stopped
        assert blind in seen.message
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"


def _unseen(engine: ProcessEngine, attempt: AttemptId) -> Observation | None:
    seen = observation(engine, attempt)
    return seen if seen is not None and seen.reason == "Unseen" else None


def test_hidepid_is_noticed(tmp_path: Path) -> None:
    """On a /proc of its own, as an ordinary user."""
    script = (
        "import os; from controller.engine.process.table import why_unseen\n"
        "before = why_unseen(); os.setresuid(65534, 65534, 65534); print(repr(before), repr(why_unseen()))"
    )
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t proc -o hidepid=2 proc /proc && exec "$@"',
        "sh",
        sys.executable,
        "-c",
        script,
    ]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, to mount /proc")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if "mount:" in done.stderr:
        pytest.skip(f"/proc cannot be mounted here: {done.stderr.strip()}")
    assert done.stdout.split(maxsplit=1)[0] == "''", done
    assert "hidepid" in done.stdout or "process 1" in done.stdout


IN_ANOTHER_NAMESPACE = """
import sys
from pathlib import Path
from controller.clock import SystemClock
from controller.core.model.task import AttemptId
from controller.engine.process.engine import ProcessEngine
engine = ProcessEngine(Path(sys.argv[1]), "test", SystemClock())
attempt = AttemptId(sys.argv[2], 1)
for _ in range(3):
    seen = [each for each in engine.attempts() if each.attempt == attempt][0]
print(seen.phase, seen.reason, seen.stopped)
found = engine.find(AttemptId("elsewhere", 1), uid=sys.argv[3])
print(found.phase, found.reason, found.stopped)
"""


def test_a_replica_in_another_pid_namespace_settles_nothing(engine: ProcessEngine, tmp_path: Path) -> None:
    """It cannot see the processes: what it finds nobody for is lost, not ended, and what it runs is its
    own.
    """
    unshare = shutil.which("unshare")
    if (
        os.geteuid() != 0
        or unshare is None
        or subprocess.run([unshare, "-pf", "true"], check=False).returncode != 0
    ):
        pytest.skip("needs root, for a PID namespace of its own")
    given = launch("sh", "-c", f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & sleep 1000")
    uid = engine.start(given).uid
    pid = number_in(tmp_path / "pid")
    kill_supervisor(tmp_path, given.attempt)
    script = [sys.executable, "-c", IN_ANOTHER_NAMESPACE, str(tmp_path), given.attempt.task_id, uid]
    command = [unshare, "-pf", "--mount-proc", *script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.stdout.splitlines() == ["Unknown OtherPidNamespace False"] * 2, done.stderr
    assert is_running(pid)
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"


# -- what a task does to its own folder
# ------------------------------------------------------------------------------


FORGED = '{"uid": "x", "phase": "Succeeded", "exit_code": 0}'


@pytest.mark.parametrize(
    "deed",
    [
        f"echo '{FORGED}' > ../result.json",
        f"echo '{FORGED}' > ../result.json; rm ../lock",
        f"echo '{FORGED}' > ../result.json; rm ../lock; touch ../lock",
        f"rm ../lock; mkdir ../lock; echo '{FORGED}' > ../result.json",
        f"rm ../record.json; echo '{FORGED}' > ../result.json",
        "echo '{}' > ../record.json",
        "rm ../record.json",
        "rm -rf ../lock ../record.json ../wake",
        "mkdir ../result.json; mkdir ../result.json/full",
    ],
)
def test_a_task_does_not_end_its_own_hold(engine: ProcessEngine, tmp_path: Path, deed: str) -> None:
    """Whatever it writes: no end is told while it runs, and then it is the supervisor's own result that
    counts.
    """
    # Two of them: a writer of the first that has not closed it yet would end the second read.
    script = (
        f"read line < {tmp_path}/gate; {deed}; echo $$ > {tmp_path}/pid; read line < {tmp_path}/end; exit 3"
    )
    given = launch("sh", "-c", script)
    for name in ("gate", "end"):
        os.mkfifo(tmp_path / name)
    uid = engine.start(given).uid
    (tmp_path / "gate").write_text("go on\n")
    pid = number_in(tmp_path / "pid")
    for _ in range(3):
        seen = observation(engine, given.attempt) or engine.find(given.attempt, uid=uid)
        assert not seen.stopped
        assert is_running(pid)
    (tmp_path / "end").write_text("go on\n")
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.exit_code, seen.uid) == (Phase.FAILED, 3, uid)


@pytest.mark.parametrize(
    "deed", ["rm -rf ../*", 'rm -rf "$TALLY_ATTEMPT_FOLDER"', 'mv "$TALLY_ATTEMPT_FOLDER" {elsewhere}']
)
@pytest.mark.parametrize("has_supervisor", [True, False], ids=["supervised", "supervisor killed"])
def test_a_folder_that_is_removed_or_moved_proves_nothing(
    engine: ProcessEngine, tmp_path: Path, deed: str, has_supervisor: bool
) -> None:
    """The attempt is not listed, and its end is proven only by a search; what has no supervisor is ended
    by it.
    """
    script = deed.format(elsewhere=tmp_path / "elsewhere")
    given = launch(
        "sh", "-c", f"read line < {tmp_path}/gate; {script}; echo $$ > {tmp_path}/pid; exec sleep 1000"
    )
    os.mkfifo(tmp_path / "gate")
    uid = engine.start(given).uid
    supervisor = int(str(record_of(tmp_path, given.attempt)["supervisor"]))
    (tmp_path / "gate").write_text("go on\n")
    pid = number_in(tmp_path / "pid")
    assert observation(engine, given.attempt) is None
    if has_supervisor:
        seen = engine.find(given.attempt, uid=uid)
        assert (seen.phase, seen.stopped, seen.reason) == (Phase.UNKNOWN, False, "Unrecorded")
        assert is_running(pid)
        with pytest.raises(EngineUnavailable, match="may already run: its supervisor runs"):
            engine.start(_repeated(given))
        engine.stop(given.attempt, grace_seconds=0.1, uid=uid)
    else:
        os.kill(supervisor, signal.SIGKILL)

    def is_gone() -> bool:
        found = engine.find(given.attempt, uid=uid)
        assert not (found.stopped and is_running(pid))
        return found.stopped

    wait_for(is_gone, "its end to be proven")
    assert running_pids(tmp_path) == []


def test_what_runs_beside_a_folder_made_anew_is_shown_and_stopped(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """Its folder was moved away before anybody recorded that it runs, and another is in its place."""
    given = launch("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    engine.start(given)
    supervisor = int(str(record_of(tmp_path, given.attempt)["supervisor"]))
    folder_of(tmp_path, given.attempt).rename(tmp_path / "elsewhere")
    with pytest.raises(EngineUnavailable, match="may already run"):
        engine.start(_repeated(given))
    os.kill(supervisor, signal.SIGSTOP)
    engine.stop(given.attempt, grace_seconds=0.1)
    seen = wait_for(lambda: observation(engine, given.attempt), "the attempt to be shown")
    assert (seen.phase, seen.stopped, seen.reason) == (Phase.UNKNOWN, False, "Unrecorded")
    os.kill(supervisor, signal.SIGCONT)
    assert not wait_stopped(engine, given.attempt).awaits_start
    assert running_pids(tmp_path) == []


def test_a_locks_number_that_another_attempt_has_by_now_is_no_sign_of_the_first(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """Of an attempt that was removed; file systems give a number again at once.

    The other is neither taken for it nor harmed.
    """
    given = launch("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    other = Origin.of_uid(engine.start(given).uid)
    assert other is not None
    pid = number_in(tmp_path / "pid")
    removed = tmp_path / "test" / "attempts" / "removed-1"
    origin = other._replace(session=1, session_started=other.session_started - 1000)
    wait_for(lambda: not process_search.end_all({removed: origin}), "a proof that nothing of it runs")
    # Nor where it begins while the search is under way, so that its command is met first.
    process_search._Search({removed: origin})._pass(kills=True, is_timed=False)
    assert is_running(pid)
    assert (
        engine.find(given.attempt, uid=str(record_of(tmp_path, given.attempt)["uid"])).phase is Phase.RUNNING
    )


def test_a_locks_number_that_an_attempt_without_supervisor_has_by_now_ends_nothing_of_it(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """The search for the removed one proves nothing while the other's processes run, and harms none."""
    given = launch("sh", "-c", f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & sleep 1000")
    other = Origin.of_uid(engine.start(given).uid)
    assert other is not None
    pid = number_in(tmp_path / "pid")
    kill_supervisor(tmp_path, given.attempt)
    removed = tmp_path / "test" / "attempts" / "removed-1"
    origin = other._replace(session=1, session_started=other.session_started - 1000)
    for _ in range(3):
        assert process_search.end_all({removed: origin}).keys() == {removed}
        assert is_running(pid)
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"
    wait_for(lambda: not process_search.end_all({removed: origin}), "a proof that nothing of it runs")


def _repeated(given: Launch) -> Launch:
    return Launch(
        attempt=given.attempt,
        cluster=given.cluster,
        term=given.term,
        spec=given.spec,
        pool=given.pool,
        environment=given.environment,
        repeated=True,
    )


def test_a_state_folder_that_was_moved_and_made_anew_proves_nothing(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """A replica that is started then lists nothing; asked for by name, what runs is lost and not gone."""
    given = launch("sleep", "1000")
    uid = replica().start(given).uid
    supervisor = int(str(record_of(tmp_path, given.attempt)["supervisor"]))
    (tmp_path / "test").rename(tmp_path / "away")
    another = replica()
    assert another.attempts() == []
    seen = another.find(given.attempt, uid=uid)
    assert (seen.phase, seen.stopped) == (Phase.UNKNOWN, False)
    assert is_running(supervisor)
    another.stop(given.attempt, grace_seconds=0.1, uid=uid)
    wait_for(lambda: another.find(given.attempt, uid=uid).gone, "its end to be proven")
    assert not is_running(supervisor)


def test_an_attempt_of_which_nothing_is_known_is_not_proven_to_have_ended(engine: ProcessEngine) -> None:
    """Its uid says where to look; one of another version does not."""
    assert engine.find(AttemptId("unknown", 1), uid="a" * 32).phase is Phase.UNKNOWN
    origin = Origin(1, 1, process_table.pid_namespace(), 1, "another")
    assert engine.find(AttemptId("unknown", 1), uid=origin.to_uid("x")).gone


def test_who_is_told_to_stop_without_its_fifo_is_stopped(engine: ProcessEngine, tmp_path: Path) -> None:
    given = launch("sh", "-c", f"rm ../wake; echo $$ > {tmp_path}/pid; exec sleep 1000")
    engine.start(given)
    number_in(tmp_path / "pid")
    engine.stop(given.attempt, grace_seconds=30.0)
    seen = wait_stopped(engine, given.attempt)
    assert (seen.reason, seen.signal) == ("Stopped", signal.SIGTERM)


# -- a supervisor that does nothing
# ----------------------------------------------------------------------------------


def test_a_stopped_supervisor_is_shown_and_its_end_ends_the_attempt(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """By the task, say: nobody would tell the attempt's end.

    When it goes on all is as before; when it is killed all ends.
    """
    given = launch("sh", "-c", f"read line < {tmp_path}/gate; kill -STOP $PPID; exec sleep 1000")
    os.mkfifo(tmp_path / "gate")
    engine.start(given)
    (tmp_path / "gate").write_text("go on\n")

    def is_stopped() -> bool:
        seen = observation(engine, given.attempt)
        assert seen is not None
        return (seen.phase, seen.reason, seen.stopped) == (Phase.UNKNOWN, "SupervisorStopped", False)

    wait_for(is_stopped, "the supervisor to be shown as stopped")
    supervisor = int(str(record_of(tmp_path, given.attempt)["supervisor"]))
    os.kill(supervisor, signal.SIGCONT)
    wait_for(
        lambda: (seen := observation(engine, given.attempt)) and seen.phase is Phase.RUNNING, "it to go on"
    )
    os.kill(supervisor, signal.SIGSTOP)
    engine.stop(given.attempt, grace_seconds=0.1)
    wait_for(is_stopped, "the supervisor to be shown as stopped")
    os.kill(supervisor, signal.SIGKILL)
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"
    assert running_pids(tmp_path) == []


def test_a_result_of_another_version_counts_once_nothing_runs(engine: ProcessEngine, tmp_path: Path) -> None:
    """It names no lock: the processes are looked for, once."""
    given = launch("true")
    engine.start(given)
    ended = wait_stopped(engine, given.attempt)
    path = folder_of(tmp_path, given.attempt) / files.RESULT
    result = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in result.items() if name != "lock_inode"}))
    assert observation(engine, given.attempt) == ended
    assert json.loads(path.read_text()) == result


@pytest.mark.parametrize("leader_stays", [False, True])
def test_a_session_that_has_the_number_by_now_is_not_ended(tmp_path: Path, leader_stays: bool) -> None:
    """Pids come round. Without its leader, nobody can tell that it is another one: it proves nothing then."""
    daemon = (
        "import os, sys, time; os.setsid(); session = os.getpid()\n"
        "if os.fork(): time.sleep(1000 if len(sys.argv) > 1 else 0); os._exit(0)\n"
        "print(session, os.getpid(), flush=True); time.sleep(1000)"
    )
    command = [sys.executable, "-c", daemon, *(["stays"] if leader_stays else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session, pid = map(int, process.stdout.readline().split())
        try:
            if not leader_stays:
                process.wait(30)
            removed = tmp_path / "attempts" / "removed-1"
            origin = Origin(session, 5, pid_namespace(), 0, this_boot())
            unproven = process_search.end_all({removed: origin})
            assert unproven.keys() == (set() if leader_stays else {removed})
            assert all(str(pid) in why.message for why in unproven.values())
            assert is_running(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            process.kill()
