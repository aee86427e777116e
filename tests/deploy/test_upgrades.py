"""Two versions side by side: the older one keeps what the newer one writes, whoever leads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import controller
from controller.core.lifecycle import State
from controller.dev import LocalCluster
from controller.store.keys import Keys
from tests.support.local import QUICK, Gate, Journal, add_replica, check_promise, lead_by_turns, local_cluster
from tests.support.waiting import wait_until

NEWER = "0.2.0"
CHANGES = {
    "__init__.py": (f'__version__ = "{controller.__version__}"', f'__version__ = "{NEWER}"'),
    "core/task.py": ("    version: int = 0  # SCHEMA_VERSION of the writer\n", '    version: int = 0\n    note: str = ""\n'),
    "core/transitions.py": ("version=SCHEMA_VERSION,", 'version=SCHEMA_VERSION, note="newer",'),
}
"""What the next version might bring: a field in every status that it writes, and a schema version of its own."""


def newer_version(folder: Path) -> dict[str, str]:
    """A copy of this version with those changes; returns the settings of a replica that runs it."""
    package = folder / "controller"
    shutil.copytree(Path(controller.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, after) in CHANGES.items():
        text = (package / name).read_text()
        assert text.count(before) == 1, f"{name} has changed: adapt this test"
        (package / name).write_text(text.replace(before, after))
    task = package / "core/task.py"
    task.write_text(task.read_text().replace("SCHEMA_VERSION = 1\n", "SCHEMA_VERSION = 2\n"))
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


def status(cluster: LocalCluster, task_id: str) -> dict[str, Any]:
    """A status as it is stored."""
    with cluster.client() as client:
        item, _ = client.store.get(Keys("default").state(task_id), deadline=client.clock.boottime() + 30)
    assert item is not None
    return dict(json.loads(item.value))


def test_versions_take_turns(tmp_path: Path) -> None:
    """A task that the newer version started ends under the older one and the reverse: each runs once, no field is lost."""
    journal = Journal(tmp_path / "journal")
    gates = [Gate(tmp_path / "first"), Gate(tmp_path / "second")]
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        (older,) = cluster.replicas
        newer = add_replica(cluster, "newer", **newer_version(tmp_path / "newer"))
        client.apply_pool({"name": "default", "capacity": {"cpu": 2}})

        lead_by_turns(cluster, newer)
        client.submit({"id": "begun-by-newer", "command": journal.command(gates[0].body), "resources": {"cpu": 1}})
        wait_until(lambda: client.get("begun-by-newer").state is State.RUNNING, "the first attempt", timeout=60)
        assert status(cluster, "begun-by-newer")["note"] == "newer"
        assert status(cluster, "begun-by-newer")["version"] == 2
        both = {controller.__version__, NEWER}
        wait_until(lambda: {replica.version for replica in client.replicas()} == both, "both registrations", timeout=60)

        lead_by_turns(cluster, older)
        client.submit({"id": "begun-by-older", "command": journal.command(gates[1].body), "resources": {"cpu": 1}})
        wait_until(lambda: client.get("begun-by-older").state is State.RUNNING, "the second attempt", timeout=60)
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
