"""`make chaos`: faults for MINUTES (default 5), from SEED (default: another each time), on REPLICAS (default
3).

FAULTS="leader killed,user cut off" injects only those; USERS (default 3) says how many call at once;
MIX=1, or `--mix`, adds arrays, gangs, dependencies and schedules in a shared pool (process engine only).
ENGINE=kubernetes runs the attempts on the fake cluster instead of as processes. The data and logs of a run
that fails are kept, and named.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from controller.dev.etcd import find_etcd
from tests.chaos.faults import FAULTS
from tests.chaos.run import run


def main() -> int:
    """Returns the exit code: 1 when the promise was broken."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**31))
    minutes, replicas = float(os.environ.get("MINUTES") or 5), int(os.environ.get("REPLICAS") or 3)
    users = int(os.environ.get("USERS") or 3)
    engine = os.environ.get("ENGINE") or "process"
    faults = [name for name in os.environ.get("FAULTS", "").split(",") if name]
    if engine not in ("process", "kubernetes"):
        print(f"ENGINE: {engine} is neither process nor kubernetes", file=sys.stderr)
        return 2
    if unknown := set(faults) - FAULTS.keys():
        print(f"FAULTS: {', '.join(sorted(unknown))} is none of {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    mixed = os.environ.get("MIX", "0") not in ("", "0") or "--mix" in sys.argv[1:]
    if mixed and engine != "process":
        print("MIX: its tasks are processes, so ENGINE must be process", file=sys.stderr)
        return 2
    what = f"{replicas} replicas, {users} users, {engine} engine{', a mix of all' if mixed else ''}"
    print(f"seed {seed}, {minutes:g} minutes, {what}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="tally-chaos-"))
    try:
        report = run(
            path,
            find_etcd(),
            seed=seed,
            seconds=60 * minutes,
            replicas=replicas,
            users=users,
            engine=engine,
            faults=faults,
            mixed=mixed,
        )
    except Exception:  # noqa: BLE001  # whatever it is, it is the finding
        traceback.print_exc()
        return 1
    # on a busy machine a supervisor that was stopped may yet write its last word
    shutil.rmtree(path, ignore_errors=True)
    print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
