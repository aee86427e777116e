"""`make chaos`: faults for MINUTES (default 5), from SEED (default: another each time), on REPLICAS (default 3).

FAULTS="leader killed,user cut off" injects only those; USERS (default 3) says how many call at once. The data and
logs of a run that fails are kept, and named.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from controller.embedded_etcd import find_etcd
from tests.chaos.faults import FAULTS
from tests.chaos.run import run


def main() -> int:
    """Returns the exit code: 1 when the promise was broken."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**31))
    minutes, replicas = float(os.environ.get("MINUTES") or 5), int(os.environ.get("REPLICAS") or 3)
    users = int(os.environ.get("USERS") or 3)
    faults = [name for name in os.environ.get("FAULTS", "").split(",") if name] or list(FAULTS)
    if unknown := set(faults) - FAULTS.keys():
        print(f"FAULTS: {', '.join(sorted(unknown))} is none of {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    print(f"seed {seed}, {minutes:g} minutes, {replicas} replicas, {users} users", flush=True)
    path = Path(tempfile.mkdtemp(prefix="tally-chaos-"))
    try:
        report = run(path, find_etcd(), seed=seed, seconds=60 * minutes, replicas=replicas, users=users, faults=faults)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        print("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 1
    shutil.rmtree(path)
    print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
