"""Two versions side by side: the older one keeps what the newer one writes, whoever leads, and a rolling
update loses nothing.
"""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import controller
from controller.bulkhead import EXIT_TORN
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster, ReplicaProcess
from controller.store.keys import Keys
from tests.support.kustomize import DEPLOY
from tests.support.load import loaded
from tests.support.local import (
    QUICK,
    Gate,
    Journal,
    Witness,
    add_replica,
    check_promise,
    is_ready,
    kill,
    lead_by_turns,
    leader_of,
    local_cluster,
)
from tests.support.waiting import wait_until

DEPLOYMENT = DEPLOY / "kubernetes/base/controller/deployment.yaml"
NEWER = "0.2.0"
CHANGES = {
    "__init__.py": (f'__version__ = "{controller.__version__}"', f'__version__ = "{NEWER}"'),
    "core/model/task.py": (
        "    version: Count = 0  # SCHEMA_VERSION of the writer\n",
        '    version: Count = 0\n    note: str = ""\n',
    ),
    "core/planning/transitions.py": ("version=SCHEMA_VERSION,", 'version=SCHEMA_VERSION, note="newer",'),
}
"""What the next version might bring: a field in every status that it writes, and a schema version of its
own.
"""


def newer_version(folder: Path) -> dict[str, str]:
    """A copy of this version with those changes; returns the settings of a replica that runs it."""
    package = folder / "controller"
    shutil.copytree(Path(controller.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, after) in CHANGES.items():
        text = (package / name).read_text()
        assert text.count(before) == 1, f"{name} has changed: adapt this test"
        (package / name).write_text(text.replace(before, after))
    task = package / "core/model/task.py"
    task.write_text(task.read_text().replace("SCHEMA_VERSION = 1\n", "SCHEMA_VERSION = 2\n"))
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


def status(cluster: LocalCluster, task_id: str) -> dict[str, Any]:
    """A status as it is stored."""
    with cluster.client() as client:
        item, _ = client.store.get(Keys("default").state(task_id), deadline=client.clock.boottime() + 30)
    assert item is not None
    return dict(json.loads(item.value))


def test_versions_take_turns(tmp_path: Path) -> None:
    """A task that the newer version started ends under the older one and the reverse: each runs once, no
    field is lost.
    """
    journal = Journal(tmp_path / "journal")
    gates = [Gate(tmp_path / "first"), Gate(tmp_path / "second")]
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        (older,) = cluster.replicas
        newer = add_replica(cluster, "newer", **newer_version(tmp_path / "newer"))
        client.apply_pool({"name": "default", "capacity": {"cpu": 2}})

        lead_by_turns(cluster, newer)
        client.submit(
            {"id": "begun-by-newer", "command": journal.command(gates[0].body), "resources": {"cpu": 1}}
        )
        wait_until(
            lambda: client.get("begun-by-newer").state is State.RUNNING, "the first attempt", timeout=60
        )
        assert status(cluster, "begun-by-newer")["note"] == "newer"
        assert status(cluster, "begun-by-newer")["version"] == 2
        both = {controller.__version__, NEWER}
        wait_until(
            lambda: {replica.version for replica in client.replicas.all()} == both,
            "both registrations",
            timeout=60,
        )

        lead_by_turns(cluster, older)
        client.submit(
            {"id": "begun-by-older", "command": journal.command(gates[1].body), "resources": {"cpu": 1}}
        )
        wait_until(
            lambda: client.get("begun-by-older").state is State.RUNNING, "the second attempt", timeout=60
        )
        gates[0].open()
        client.wait(["begun-by-newer"], timeout_seconds=60)
        ended = status(cluster, "begun-by-newer")
        assert ended["version"] == 1, "the older version wrote it last"
        assert ended["note"] == "newer"

        lead_by_turns(cluster, newer)
        gates[1].open()
        client.wait(["begun-by-older"], timeout_seconds=60)
        assert status(cluster, "begun-by-older")["note"] == "newer"
        check_promise(cluster, journal, ["begun-by-newer", "begun-by-older"])


def is_led_by(cluster: LocalCluster, replica: ReplicaProcess) -> bool:
    """Whether all replicas are ready and `replica` leads, so that at least one leader is replaced. A leader
    that loses its term while an effect takes over a second ends itself, and its supervisor restarts it.
    """
    cluster.tend()
    if replica.process is not None:
        lead_by_turns(cluster, replica)
    return all(map(is_ready, cluster.replicas)) and leader_of(cluster) is replica


def test_a_rolling_update_under_load_loses_nothing(tmp_path: Path) -> None:
    """As the Deployment does it: one of the next version is started, and once it is ready one of this version
    has its grace to end in; three times. Every task ends as it must and once, and nothing is held."""
    deployment = yaml.safe_load(DEPLOYMENT.read_text())["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    grace = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    settings = newer_version(tmp_path / "newer")
    gaps = []
    with loaded(tmp_path, replicas=3) as (cluster, journal, load):
        before = list(cluster.replicas)
        wait_until(partial(is_led_by, cluster, before[0]), "the first to lead", timeout=60)
        witness = Witness(cluster.endpoint)
        try:
            for number, older in enumerate(before):
                newer = add_replica(cluster, f"newer-{number}", **settings)
                wait_until(partial(is_ready, newer), "the new replica", timeout=60)
                led = leader_of(cluster) is older
                at = kill(older, signal.SIGTERM)
                assert older.process is not None
                assert older.process.wait(grace) in (0, EXIT_TORN)  # which of them: see is_led_by
                cluster.replicas.remove(older)
                gaps += [witness.next_term(at)] if led else []
        finally:
            witness.close()
        print(
            f"longest gap of a rolling update: {max(gaps):.3f} s, {len(load.acknowledged)} tasks submitted"
            " meanwhile"
        )
        assert witness.terms_out_of_order == []
        with cluster.client() as client:
            leader = client.replicas.leader()
            assert leader is not None
            assert leader.version == NEWER
            assert {replica.version for replica in client.replicas.all()} == {NEWER}
        load.finish()
        assert status(cluster, load.acknowledged[-1])["version"] == 2
        check_promise(cluster, journal, load.acknowledged)
