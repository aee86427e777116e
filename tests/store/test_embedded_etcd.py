"""An etcd of our own: found, started, stopped, ended with its parent; and when it does not start, why, and
what to do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from controller.core.model.op import Op
from controller.dev.etcd import EtcdBinary, EtcdFailed, EtcdNotFound, EtcdProcess, find_etcd, known_losses
from controller.store.base import Put, Transaction
from tests.support.etcd import EtcdFactory, in_seconds
from tests.support.waiting import wait_until


def script(folder: Path, text: str) -> EtcdBinary:
    """A program that passes for etcd."""
    folder.mkdir(exist_ok=True)
    path = folder / "etcd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return EtcdBinary((3, 9, 0), str(path))


class TestFinding:
    def test_the_newest_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        newer = script(tmp_path / "newer", "echo 'etcd Version: 99.1.2'")
        monkeypatch.setenv("PATH", str(tmp_path / "newer"), prepend=os.pathsep)
        assert find_etcd() == EtcdBinary((99, 1, 2), newer.path)
        script(tmp_path / "newer", "echo 'etcd Version: 0.0.1'")
        assert find_etcd().version > (0, 0, 1)

    def test_what_does_not_run_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script(tmp_path / "broken", "exit 1")
        monkeypatch.setenv("PATH", str(tmp_path / "broken"), prepend=os.pathsep)
        assert find_etcd().version > (3, 0, 0)

    def test_without_any_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("controller.dev.etcd.find_spec", lambda _: None)
        with pytest.raises(EtcdNotFound, match="install"):
            find_etcd()


class TestRunning:
    def test_data_survives_a_stop_and_it_listens_on_loopback_only(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.start()
        listening = {
            c.laddr.ip
            for c in psutil.Process(server.pid).net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        etcd_factory.store(server.url).commit(
            Transaction((), (Put("/tally/a", b"v"),), Op("op")), deadline=in_seconds()
        )
        server.stop()
        assert not server.running
        server.stop()
        server.start()
        assert etcd_factory.store(server.url).get("/tally/a", deadline=in_seconds())[0] is not None

    def test_a_stopped_process_is_ended_too(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.start()
        os.kill(server.pid, signal.SIGSTOP)
        server.stop()
        assert not server.running

    @pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
    def test_it_ends_with_a_parent_that_is_killed(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.configure()
        config = server.config
        code = (
            "from controller.dev.etcd import *; from pathlib import Path; import threading\ne ="
            f" EtcdProcess(EtcdBinary({server.binary.version!r}, {server.binary.path!r}),"
            f" EtcdConfig(Path({str(config.data_dir)!r}), {config.client_port}, {config.peer_port},"
            " unsafe_no_fsync=True))\ne.start(); print(e.pid, flush=True); threading.Event().wait()"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.communicate()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")


class TestFailing:
    def test_a_port_in_use(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.configure()
        with socket.create_server(("127.0.0.1", server.config.client_port)):
            with pytest.raises(EtcdFailed, match=rf"port {server.config.client_port} .* in use: free it"):
                server.start()
            assert not server.running

    def test_a_newer_data_directory(self, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
        fatal = (
            '{"level":"fatal","msg":"invalid downgrade; server version is lower than determined cluster'
            ' version"}'
        )
        server = EtcdProcess(
            script(tmp_path / "old", f"echo '{fatal}' >&2; exit 1"), etcd_factory.configure().config
        )
        with pytest.raises(EtcdFailed, match="written by a newer etcd: install that version"):
            server.start()

    def test_a_damaged_data_directory(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.start()
        server.stop()
        with open(server.config.data_dir / "member/snap/db", "r+b") as database:
            database.write(b"garbage" * 4096)
        with pytest.raises(EtcdFailed, match="damaged: restore it from a backup"):
            server.start()
        assert not server.running

    def test_a_data_directory_that_cannot_be_made(self, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        config = replace(
            etcd_factory.configure().config, data_dir=tmp_path / "file" / "data", log_file=tmp_path / "log"
        )
        with pytest.raises(EtcdFailed, match="cannot be started"):
            EtcdProcess(etcd_factory.binary, config).start()

    def test_one_that_hangs_is_not_left_behind(self, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
        server = EtcdProcess(script(tmp_path / "hang", "exec sleep 60"), etcd_factory.configure().config)
        with pytest.raises(EtcdFailed, match="not healthy after"):
            server.start(timeout=0.3)
        assert not server.running


@pytest.mark.parametrize(
    ("version", "faults"),
    [
        ((3, 4, 20), "(etcd#14370)"),
        ((3, 4, 23), ""),
        ((3, 5, 1), "(etcd#14370, etcd#13766)"),
        ((3, 5, 4), "(etcd#14370)"),
        ((3, 5, 5), ""),
        ((3, 6, 0), ""),
    ],
)
def test_what_a_version_may_lose_is_told_in_one_line_with_a_way_out(
    version: tuple[int, int, int], faults: str
) -> None:
    """Only of versions that are known to, each fault by its number at etcd."""
    told = known_losses(EtcdBinary(version, "/usr/bin/etcd"))
    assert bool(told) == bool(faults)
    assert faults in told
    if told:
        assert "\n" not in told
        assert "make etcd" in told
