"""The client library: submit tasks, look at them, wait for them, cancel and retry them, define pools.

    from controller.client import Client

    with Client.from_config() as tally:  # or Client("http://127.0.0.1:2379")
        tally.submit({"id": "hello", "command": ["echo", "hello"], "resources": {"cpu": "100m"}})
        print(tally.wait(["hello"])["hello"].state)

`tally.replicas` knows who leads, and `tally.outputs` what attempts have printed.

A client reads and writes etcd itself and needs no replica of the controller to be up: what it asks for waits
in the store until one leads. Everything may be called again after an error: a submission that exists is
`unchanged`, a request that is pending is `already requested`. Raises the errors of `controller.store.base`
(StoreUnavailable after `timeout_seconds`, StoreDenied), InvalidField for what cannot hold, Conflict for
another task of that name, NotFound for what is not there. Safe to use from several threads.
"""

from controller.client.client import Client
from controller.client.errors import Conflict, NotFound, Still
from controller.client.submission import SubmitResult
from controller.client.views import ApplyResult, LeaderView, PoolView, ReplicaView, RequestResult, TaskView

__all__ = [
    "ApplyResult",
    "Client",
    "Conflict",
    "LeaderView",
    "NotFound",
    "PoolView",
    "ReplicaView",
    "RequestResult",
    "Still",
    "SubmitResult",
    "TaskView",
]
