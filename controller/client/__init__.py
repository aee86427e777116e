"""The client library: submit, list, watch, await, cancel, retry and change tasks; define pools.

    from controller.client import connect

    with connect() as tally:  # or Client("http://127.0.0.1:2379"), or connect_to_gateway("https://tally:9190")
        tally.submit({"id": "hello", "command": ["echo", "hello"], "resources": {"cpu": "100m"}})
        print(tally.wait(["hello"])["hello"].state)

`tally.replicas` lists the replicas and names the leader; `tally.outputs` reads the output of attempts;
`tally.owners` lists the owners of pools with `sharing`, and `tally.usage` counts what they have used.
`tally.hold`, `tally.release` and `tally.set_priority` change tasks that wait; `tally.bulk` asks for the same
of many tasks; `tally.admission` pauses and resumes pools, and `tally.maintenance` sets their maintenance
windows; `tally.features` turns features on; `tally.notices` lists what receivers have yet to be told about
ended tasks; `tally.neighbours` tells what a task waits for, and what waits for it; `tally.schedules` has
tasks made at fixed times; `tally.forecasts` looks ahead, also as if things were otherwise.

`tally.members` lists the members of an array, and `tally.downstream` cancels or retries a task with all that
waits for it.

`AsyncClient` has the usual verbs for asyncio, and `call` for all others. `connect_to_gateway` gives a client
of a gateway, for who has no credentials of etcd; it raises GatewayUnavailable, NotSignedIn and Refusal, too.

A client reads and writes etcd directly. No replica of the controller needs to be up: tasks and requests wait
in the store until a replica leads. Every call may be repeated after an error: a task that is already stored
is `unchanged`, and a request that is pending is `already requested`.

Calls raise the errors of `controller.store.base` (StoreUnavailable after `timeout_seconds`, StoreDenied),
InvalidField for an invalid value, Conflict when a task of that name has another spec, and NotFound when there
is no such object. After `close`, which also ends waits, all raise Closed. Safe to use from several threads.
"""

from controller.client.async_client import AsyncClient
from controller.client.bulk import TaskAct
from controller.client.client import Client
from controller.client.connecting import connect, connect_to_gateway
from controller.client.errors import Conflict, NotFound, Still
from controller.client.features import FeatureView
from controller.client.notices import NoticeView
from controller.client.prepared import SubmitResult
from controller.client.replica_views import LeaderView, ReplicaView
from controller.client.views import (
    ApplyResult,
    ClaimView,
    OwnerView,
    PoolView,
    RequestResult,
    SharingView,
    TaskView,
)
from controller.engine.base import ALL_LOGS, LogOptions
from controller.errors import Closed
from controller.views.ahead import ComparedView
from controller.views.dependencies import NeighboursView
from controller.views.forecast import ForecastView
from controller.views.schedules import ScheduleView
from controller.views.usage import Usage, UsageLine

__all__ = [
    "ALL_LOGS",
    "ApplyResult",
    "AsyncClient",
    "ClaimView",
    "Client",
    "Closed",
    "ComparedView",
    "Conflict",
    "FeatureView",
    "ForecastView",
    "LeaderView",
    "LogOptions",
    "NeighboursView",
    "NotFound",
    "NoticeView",
    "OwnerView",
    "PoolView",
    "ReplicaView",
    "RequestResult",
    "ScheduleView",
    "SharingView",
    "Still",
    "SubmitResult",
    "TaskAct",
    "TaskView",
    "Usage",
    "UsageLine",
    "connect",
    "connect_to_gateway",
]
