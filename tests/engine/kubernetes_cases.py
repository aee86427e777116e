"""What the tests of the Kubernetes engine share: engines on a fake cluster, and launches whose pods follow
a script.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from controller.clock import SystemClock
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Launch, Observation, Pool
from controller.dev.fake_kubernetes import FakeCluster, script_annotation
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from tests.engine import process_cases

IMAGE = "busybox:1"

Engines = Callable[..., KubernetesEngine]


def engine_on(
    cluster: FakeCluster,
    folder: Path,
    name: str = "test",
    *,
    namespaces: tuple[str, ...] = (),
    token: str = "",
    timeout: float = 5.0,
    **options: Any,
) -> KubernetesEngine:
    """An engine of the cluster of this name, configured as a user's would be; the caller closes it."""
    token_option = {"token": token} if token else {}
    options = {"confirm_seconds": 0.3, **options}  # a kubelet of the fake is as fast
    path = cluster.kubeconfig(folder / "kubeconfig", **token_option)
    access = ClusterAccess(kubeconfig=path, qps=10_000.0, burst=10_000, timeout_seconds=timeout)
    return KubernetesEngine(
        name, SystemClock(), KubernetesOptions(access=access, namespaces=namespaces, **options)
    )


def launch(
    *command: str,
    engine_options: dict[str, Any] | None = None,
    repeated: bool = False,
    resources: Vector = ZERO,
    **spec: Any,
) -> Launch:
    """A launch of an image, by default as the first attempt of a task of its own."""
    given = process_cases.launch(*command, **{"image": IMAGE, **spec})
    pool = Pool(name="default", engine_options=engine_options or {})
    return replace(given, spec=replace(given.spec, resources=resources), pool=pool, repeated=repeated)


def scripted(
    engine_options: dict[str, Any] | None = None, *, pod: dict[str, Any] | None = None, **script: Any
) -> Launch:
    """A launch whose pod does what the script says (fields of the fake cluster's Script); `pod` goes into
    its spec.
    """
    template = {"metadata": {"annotations": script_annotation(**script)}, "spec": pod or {}}
    return launch("run", pod_template=template, engine_options=engine_options)


def running(**options: Any) -> Launch:
    """A launch that runs until it is stopped, and ends at once on TERM."""
    return scripted(run_seconds=None, on_term=143, term_seconds=0.01, **options)


@contextmanager
def watching(engine: KubernetesEngine) -> Iterator[list[Observation]]:
    """What a watch reports during the block; it must end when told."""
    reported: list[Observation] = []
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(reported.append, stop), name="watch")
    watch.start()
    try:
        yield reported
    finally:
        stop.set()
        watch.join(20)
        assert not watch.is_alive()
