"""`python -m controller.dev.fake_kubernetes --port N`: a fake cluster in the foreground, until Ctrl-C or
TERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m controller.dev.fake_kubernetes", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port of 127.0.0.1 to listen on (default: any free port)"
    )
    parser.add_argument("--version", default="v1.33.1", help="version to behave as (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="real seconds for each second of the cluster (default: 1)"
    )
    parser.add_argument(
        "--namespace", action="append", default=[], help="a namespace besides default (repeatable)"
    )
    parser.add_argument("--cpu", default="64", help="allocatable cpu of the node (default: %(default)s)")
    parser.add_argument(
        "--memory", default="256Gi", help="allocatable memory of the node (default: %(default)s)"
    )
    parser.add_argument("--kubeconfig", type=Path, help="file to write a kubeconfig to")
    options = parser.parse_args()
    cluster = FakeCluster(
        ClusterOptions(version=options.version, scale=options.scale, node=False), port=options.port
    )
    cluster.state.add_node("node1", cpu=options.cpu, memory=options.memory)
    for namespace in options.namespace:
        cluster.state.add_namespace(namespace)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with cluster.start():
        if options.kubeconfig:
            cluster.kubeconfig(options.kubeconfig)
        sys.stdout.write(f"{cluster.url}\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
