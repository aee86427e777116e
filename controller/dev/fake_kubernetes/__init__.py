"""A Kubernetes API server to develop and test against: real HTTP, real client, no cluster.

For the tests of the Kubernetes engine and for `tally dev --engine kubernetes --fake-cluster`; nothing that
runs in production imports it. It keeps the rules that Tally depends on (versions, conflicts, graceful
deletion, finalizers, scheduling gates, watches with bookmarks, compaction, paged lists, rights, quotas,
admission) and answers in the server's words; `tests/fakes/test_recordings.py` holds it to what a real cluster
said.

    with FakeCluster(ClusterOptions(scale=0.01)).start() as cluster:
        cluster.kubeconfig(path)             # for any client
        cluster.state.faults.drop_answers("create", times=1)
        cluster.state.lose_node(); cluster.state.restore_node()
        cluster.state.executions             # what really ran

What a pod does is its script: the annotation `fake.tally.dev/script`, a function, or what its command says
(`script`).

    server → http_server → cluster_state             one object to hold; the wire; all behind the wire
    api → pod_registry, storage                      the API, down to etcd and its history
    scheduler, kubelet, nodes on agenda              the cluster, step by step at its time
    faults, fault_routes, watching                   what goes wrong, on command

Left out: managed fields, init containers, restarts of containers, server-side apply, tables.
"""

from controller.dev.fake_kubernetes.access import TOKEN, USER
from controller.dev.fake_kubernetes.cluster_state import ClusterOptions, ClusterState
from controller.dev.fake_kubernetes.kubelet import KubeletTimings
from controller.dev.fake_kubernetes.pod_run import Execution
from controller.dev.fake_kubernetes.script import Script, script_annotation
from controller.dev.fake_kubernetes.server import FakeCluster

__all__ = [
    "TOKEN",
    "USER",
    "ClusterOptions",
    "ClusterState",
    "Execution",
    "FakeCluster",
    "KubeletTimings",
    "Script",
    "script_annotation",
]
