"""The systemd unit: verified, rated, and run by a real systemd with all its hardening, watchdog and
left-over attempts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from controller.config import load_settings
from controller.dev.etcd import EtcdBinary
from controller.forecaster.surroundings import NICENESS
from controller.notifier.signing import new_secret
from tests.support.systemd import PrivateSystemd, private_systemd
from tests.support.waiting import wait_until

eventually = partial(wait_until, timeout=90.0, poll=0.1)

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
pytestmark = [pytest.mark.xdist_group("systemd"), pytest.mark.timeout(300)]  # one worker boots one
EXPOSURE = 2.0
UNIT = "tally.service"
LAUNCHER = """#!{python}
import sys
sys.path[:0] = ["/opt/tally/source", "/opt/tally/packages"]
from controller.cli.main import main
main()
"""
LOG = "/var/log/tally.log"
MOVED = "LD_LIBRARY_PATH=/opt/tally/python/lib"
TALLY = "/opt/tally/bin/tally"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, which needs no running systemd for these."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_unit_of_the_gateway_is_valid(tmp_path: Path) -> None:
    """No unknown setting, no warning, and as confined as a replica."""
    text = (UNITS / "tally-gateway.service").read_text()
    unit = tmp_path / "tally-gateway.service"
    unit.write_text(text.replace(TALLY, shutil.which("true") or ""))
    verdict = analyze("verify", "--man=no", str(unit))
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")
    replica = (UNITS / UNIT).read_text()
    confined = [line for line in replica.split("# -- what it may do")[1].splitlines()[1:] if "=" in line]
    assert [line for line in confined if line not in text and not line.startswith("TasksMax")] == []
    files = re.findall(r"^Environment=(TALLY_\w+)=", text, re.MULTILINE)
    assert files == ["TALLY_GATEWAY_POLICY_FILE", "TALLY_GATEWAY_TOKENS_FILE"]


@pytest.mark.parametrize("drop_in", ["", "credentials.conf", "status-tls.conf", "process-engine.conf"])
def test_the_unit_is_valid(tmp_path: Path, drop_in: str) -> None:
    """Alone, and with each drop-in: no unknown setting, no warning."""
    unit = tmp_path / UNIT
    unit.write_text((UNITS / UNIT).read_text().replace(TALLY, shutil.which("true") or ""))
    if drop_in:
        (tmp_path / f"{UNIT}.d").mkdir()
        shutil.copy(UNITS / "drop-ins" / drop_in, tmp_path / f"{UNIT}.d")
    verdict = analyze("verify", "--man=no", str(unit))
    assert (verdict.returncode, verdict.stderr) == (0, "")


def test_the_units_exposure_is_low() -> None:
    """By systemd's own measure, from 0 to 10."""
    answer = analyze(
        "security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", "--no-pager", str(UNITS / UNIT)
    )
    assert answer.returncode == 0, answer.stdout
    found = re.search(r"Overall exposure level for tally.service: ([\d.]+)", answer.stdout)
    assert found is not None
    assert float(found[1]) <= EXPOSURE


def test_the_example_environment_holds_settings_only(tmp_path: Path) -> None:
    """Each line is a setting with a value that is accepted, and none is a secret."""
    lines = [
        line for line in (UNITS / "tally.env").read_text().splitlines() if line and not line.startswith("#")
    ]
    environ = dict(line.split("=", 1) for line in lines)
    (tmp_path / "kubeconfig").touch()
    environ["TALLY_KUBECONFIG"] = str(tmp_path / "kubeconfig")
    empty = tmp_path / "tally.toml"
    empty.touch()
    origins = load_settings({}, environ, str(empty)).origins
    assert {
        f"TALLY_{name.upper()}" for name, origin in origins.items() if origin.startswith("environment")
    } == set(environ)


@pytest.fixture(scope="module")
def machine(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    """A systemd on a machine where Tally is installed as the notes say, and etcd listens on its usual
    port.
    """
    mounts: dict[str, str | Path] = {
        "source": ROOT,
        "packages": sysconfig.get_paths()["purelib"],
        "python": sys.base_prefix,
        "etcd": Path(etcd_binary.path).parent,
    }
    below = {f"/opt/tally/{name}": Path(source) for name, source in mounts.items()}
    with private_systemd(tmp_path_factory.mktemp("systemd"), below) as running:
        install(running)
        running.path("/etc/systemd/system/etcd.service").write_text(
            f"[Service]\nType=notify\nExecStart=/opt/tally/etcd/{Path(etcd_binary.path).name}"
            " --data-dir=/var/tmp/etcd\n"
        )
        order(running, "start", "etcd.service")
        yield running


@pytest.fixture
def systemd(machine: PrivateSystemd) -> Iterator[PrivateSystemd]:
    """The machine, on which the unit does not run."""
    yield machine
    machine.run("systemctl", "stop", UNIT)
    machine.run("systemctl", "reset-failed", UNIT)


def install(systemd: PrivateSystemd) -> None:
    """The command, the user and the unit; the interpreter, its packages and the source are mounted below
    /opt/tally.
    """
    launcher = systemd.path(TALLY)
    launcher.parent.mkdir()
    launcher.write_text(
        LAUNCHER.format(python=f"/opt/tally/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
    )
    launcher.chmod(0o755)
    systemd.path("/etc/tally").mkdir()
    (systemd.path("/etc/passwd")).open("a").write("tally:x:4711:4711::/nonexistent:/usr/sbin/nologin\n")
    (systemd.path("/etc/group")).open("a").write("tally:x:4711:\n")
    systemd.path("/etc/systemd/system/tally.service").write_text((UNITS / UNIT).read_text())


def order(systemd: PrivateSystemd, *verb: str) -> None:
    """systemctl, which must succeed."""
    done = systemd.run("systemctl", *verb)
    status = systemd.run("systemctl", "status", "--no-pager", "-l", UNIT).stdout + systemd.log()
    said = systemd.path(LOG).read_text() if systemd.path(LOG).exists() else ""
    assert done.returncode == 0, f"{done.stderr}\n{status}\n{said}"


def configure(systemd: PrivateSystemd, environment: dict[str, str], *drop_ins: str, **service: str) -> None:
    """Settings for the unit, the drop-ins of these names and settings of its service, in place of those
    before.
    """
    folder = systemd.path(f"/etc/systemd/system/{UNIT}.d")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # An interpreter that was moved finds its library by this.
    own = {"StandardError": f"append:{LOG}", "Environment": MOVED, **service}
    (folder / "own.conf").write_text(
        "[Service]\n" + "".join(f"{name}={value}\n" for name, value in own.items())
    )
    for name, text in [(each, (UNITS / "drop-ins" / each).read_text()) for each in drop_ins]:
        (folder / name).write_text(text)
    systemd.path("/etc/tally/tally.env").write_text(
        "".join(f"{name}={value}\n" for name, value in environment.items())
    )
    order(systemd, "daemon-reload")


def tally(systemd: PrivateSystemd, *arguments: str) -> Any:
    """A command's answer, as a document where it is asked for one."""
    done = systemd.run("env", MOVED, TALLY, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "json" in arguments else done.stdout


def main_process(systemd: PrivateSystemd) -> int:
    """The unit's process; waits until there is one."""
    return eventually(lambda: int(systemd.show(UNIT, "MainPID")), "its process")


def leads(systemd: PrivateSystemd) -> bool:
    """Whether the unit's status line says so."""
    return systemd.show(UNIT, "StatusText").startswith("leading")


def test_a_replica_under_systemd(systemd: PrivateSystemd) -> None:
    """Started, it is ready, nobody in particular, says that it leads, and feeds the watchdog; stopped, it
    hands over.
    """
    configure(systemd, {"TALLY_ENGINE": "null", "TALLY_REPLICA": "unit"}, WatchdogSec="10s")
    order(systemd, "start", UNIT)
    eventually(lambda: leads(systemd), "leadership")
    pid = main_process(systemd)
    status = systemd.path(f"/proc/{pid}/status").read_text()
    assert not re.search(r"^Uid:\s+0", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    fed = systemd.show(UNIT, "WatchdogTimestampMonotonic")
    eventually(lambda: pid in registered(systemd), "its registration")
    eventually(lambda: systemd.show(UNIT, "WatchdogTimestampMonotonic") != fed, "the watchdog to be fed")
    assert_it_looks_ahead(systemd)

    order(systemd, "stop", UNIT)
    assert systemd.show(UNIT, "Result") == "success"
    assert pid not in registered(systemd)


def assert_it_looks_ahead(systemd: PrivateSystemd) -> None:
    """In a process that the unit lets step back behind the replica."""
    looked = systemd.run("curl", "-sS", "http://127.0.0.1:9180/v1/forecast")
    said = systemd.path(LOG).read_text()
    assert "pools" in json.loads(looked.stdout), said
    assert "refused" not in said
    (begun,) = [json.loads(line) for line in said.splitlines() if '"forecaster begun"' in line]
    of_it = systemd.path(f"/proc/{begun['pid']}")
    assert of_it.joinpath("stat").read_text().rpartition(")")[2].split()[16] == str(NICENESS)
    assert of_it.joinpath("oom_score_adj").read_text().strip() == "1000"


def registered(systemd: PrivateSystemd) -> set[int]:
    """Processes that are registered as replicas."""
    return {replica["pid"] for replica in tally(systemd, "get", "replicas", "-o", "json")["items"]}


def test_a_gateway_under_systemd(systemd: PrivateSystemd) -> None:
    """It serves whoever has a token, nobody else, and looks ahead."""
    configure(systemd, {"TALLY_ENGINE": "null", "TALLY_REPLICA": "unit"})
    order(systemd, "start", UNIT)
    eventually(lambda: leads(systemd), "leadership")
    made = systemd.run("env", MOVED, TALLY, "gateway", "token", "alice")
    token = made.stderr.split()[-1]
    files = systemd.path("/etc/tally/gateway")
    files.mkdir(mode=0o700)
    (files / "tokens.toml").write_text(made.stdout)
    (files / "policy.toml").write_text('[[rules]]\nwho = ["alice"]\nowners = ["a"]\nverbs = ["admin"]\n')
    with unit(systemd, "tally-gateway.service") as log:
        answer = partial(systemd.run, "curl", "-sS", "http://127.0.0.1:9190/v1/forecast")
        eventually(lambda: answer().returncode == 0, "the gateway")
        assert json.loads(answer().stdout)["status"] == HTTPStatus.UNAUTHORIZED
        looked = partial(answer, "-H", f"Authorization: Bearer {token}")  # it serves before it has loaded
        eventually(lambda: "pools" in json.loads(looked().stdout), "a look ahead")
        assert "refused" not in log.read_text()


def test_a_notifier_under_systemd(systemd: PrivateSystemd) -> None:
    """It is up while it has nothing to do."""
    files = systemd.path("/etc/tally/notifier")
    files.mkdir(mode=0o700)
    (files / "secrets.toml").write_text(f'default = ["{new_secret()}"]\n')
    with unit(systemd, "tally-notifier.service") as log:
        eventually(lambda: "waiting for duty" in log.read_text() or "on duty" in log.read_text(), "a word")
        assert systemd.show("tally-notifier.service", "ActiveState") == "active", log.read_text()


@contextmanager
def unit(systemd: PrivateSystemd, name: str) -> Iterator[Path]:
    """The unit of this name, as it is shipped, while it runs; the file that has its log."""
    log = systemd.path(f"/var/log/{name}.log")
    systemd.path(f"/etc/systemd/system/{name}").write_text((UNITS / name).read_text())
    folder = systemd.path(f"/etc/systemd/system/{name}.d")
    folder.mkdir()
    (folder / "own.conf").write_text(
        f"[Service]\nStandardError=append:/var/log/{name}.log\nEnvironment={MOVED}\n"
    )
    order(systemd, "daemon-reload")
    order(systemd, "start", name)
    try:
        yield log
    except AssertionError:
        print(log.read_text(), systemd.log())
        raise
    finally:
        order(systemd, "stop", name)
        assert systemd.show(name, "Result") == "success", log.read_text()


def test_a_loop_that_is_stuck_is_replaced(systemd: PrivateSystemd) -> None:
    """The watchdog ends the process, systemd starts another, and that one leads.

    The registration of the first expires.
    """
    environment = {"TALLY_ENGINE": "null", "TALLY_REPLICA": "unit"}
    configure(systemd, environment, WatchdogSec="3s", RestartSec="0")
    order(systemd, "start", UNIT)
    eventually(lambda: leads(systemd), "leadership")
    stuck = main_process(systemd)
    systemd.run("kill", "-STOP", str(stuck))
    configure(systemd, environment, RestartSec="0")  # the next start has the unit's own patience
    eventually(lambda: main_process(systemd) != stuck, "the watchdog")
    eventually(lambda: leads(systemd), "leadership")
    assert int(systemd.show(UNIT, "NRestarts")) >= 1
    eventually(lambda: main_process(systemd) in registered(systemd), "its registration")


def test_credentials_are_shown_to_the_service_alone(systemd: PrivateSystemd) -> None:
    """A user that exists only while the unit runs reads what only root may read on disk."""
    credentials = systemd.path("/etc/tally/credentials")
    credentials.mkdir(mode=0o700)
    for name in ("etcd-ca.pem", "etcd-client.pem", "etcd-client-key.pem", "tally"):
        (credentials / name).write_text("secret\n")
        (credentials / name).chmod(0o600)
    configure(systemd, {"TALLY_ENGINE": "null", "TALLY_ETCD": "http://127.0.0.1:2379"}, "credentials.conf")
    order(systemd, "start", UNIT)
    eventually(lambda: leads(systemd), "leadership")
    directory = systemd.path("/run/credentials") / UNIT
    assert (directory / "etcd-password").read_text() == "secret\n"
    assert "TALLY_USER=tally " in systemd.show(UNIT, "Environment"), "the unit's own name"
    assert (
        systemd.run(
            "setpriv", "--reuid=65534", "--clear-groups", "cat", f"/run/credentials/{UNIT}/etcd-password"
        ).returncode
        != 0
    )
    order(systemd, "stop", UNIT)
    assert not directory.exists()


def test_a_setting_that_does_not_hold_is_not_tried_again(systemd: PrivateSystemd) -> None:
    """The unit fails at once, and says why."""
    configure(systemd, {"TALLY_ENGINE": "null", "TALLY_LEASE_TTL_SECONDS": "1"})
    assert systemd.run("systemctl", "start", UNIT).returncode != 0
    assert systemd.show(UNIT, "ActiveState") == "failed"
    assert systemd.show(UNIT, "ExecMainStatus") == "2"
    assert "lease_ttl_seconds" in systemd.path(LOG).read_text()


def test_attempts_survive_a_restart_of_the_unit(systemd: PrivateSystemd) -> None:
    """With the process engine: the same process goes on, is adopted, and its end is seen."""
    configure(systemd, {"TALLY_REPLICA": "unit", "TALLY_CLUSTER": "second"}, "process-engine.conf")
    order(systemd, "start", UNIT)
    second = ("--cluster", "second")
    tally(systemd, "apply", *second, "-f", write(systemd, {"name": "default", "capacity": {"cpu": 1}}))
    tally(
        systemd,
        "submit",
        *second,
        "long",
        "--cpu",
        "1",
        "--",
        "sh",
        "-ec",  # it may write to the machine's own folders of that kind
        "mktemp; mktemp -p /var/tmp; echo $$ > pid; until [ -e stop ]; do sleep 0.1; done",
    )
    pids = eventually(lambda: list(systemd.path("/var/lib/tally").glob("second/**/pid")), "the attempt")
    first = pids[0].read_text()

    order(systemd, "restart", UNIT)
    assert Path(pids[0]).read_text() == first
    assert systemd.run("kill", "-0", first.strip()).returncode == 0
    pids[0].with_name("stop").touch()
    tally(systemd, "wait", *second, "long", "--for=succeeded", "--timeout", "60s")
    history = tally(systemd, "get", "tasks", *second, "long", "-o", "json")
    assert history["status"]["attempt"] == 1


def write(systemd: PrivateSystemd, document: dict[str, Any]) -> str:
    """A file inside."""
    systemd.path("/run/document.yaml").write_text(json.dumps(document))
    return "/run/document.yaml"
