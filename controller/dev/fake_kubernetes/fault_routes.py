"""Faults over HTTP, for a fake cluster in another process: `POST /_faults` with a JSON body such as

    {"fault": "drop-answers", "verb": "create", "rate": 0.05}
    {"fault": "fail", "status": 429, "verb": "list", "times": 3, "retry_after": 1}
    {"fault": "delay", "seconds": 0.5}      {"fault": "hold", "verb": "create", "times": 1}
    {"fault": "cut-watches"}  {"fault": "freeze-watches"}  {"fault": "expire-watches"}  {"fault": "compact"}
    {"fault": "restart"}  {"fault": "lose-node", "node": "node1"}  {"fault": "restore-node", "node": "node1"}

`GET /_faults` lists what is active and what struck; `DELETE /_faults` ends all, and lets parked requests take
effect. `GET /_faults/executions` lists what ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from controller.dev.fake_kubernetes import apierrors

if TYPE_CHECKING:
    from controller.dev.fake_kubernetes.server import FakeCluster


class FaultOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a POST."""

    fault: str
    verb: str = "*"
    resource: str = "*"
    times: int | None = None
    rate: float = 1.0
    seconds: float = 0.0
    status: int = 500
    retry_after: int | None = None
    node: str = "node1"


def answer(cluster: FakeCluster, method: str, path: str, body: bytes) -> Any:
    """Carry it out. Raises ApiError 400 for an order that is not understood."""
    if method == "GET" and path == "/_faults/executions":
        return cluster.executions
    if method == "POST":
        try:
            order = msgspec.json.decode(body, type=FaultOrder)
        except msgspec.MsgspecError as error:
            raise apierrors.bad_request(f"/_faults: {error}") from error
        _carry_out(cluster, order)
    elif method == "DELETE":
        cluster.faults.clear()
    active = [
        f"{fault.kind} {fault.verb} {fault.resource} left={fault.left} rate={fault.rate}"
        for fault in cluster.faults.active()
    ]
    return {"active": active, "struck": dict(cluster.faults.struck)}


def _carry_out(cluster: FakeCluster, order: FaultOrder) -> None:
    chosen: dict[str, Any] = {"resource": order.resource, "times": order.times, "rate": order.rate}
    orders: dict[str, Callable[[], object]] = {
        "drop-answers": lambda: cluster.faults.drop_answers(order.verb, **chosen),
        "drop-requests": lambda: cluster.faults.drop_requests(order.verb, **chosen),
        "delay": lambda: cluster.faults.delay(order.seconds, order.verb, **chosen),
        "fail": lambda: cluster.faults.fail(
            order.status, order.verb, retry_after=order.retry_after, **chosen
        ),
        "hold": lambda: cluster.faults.hold(order.verb, resource=order.resource, times=order.times),
        "cut-watches": cluster.cut_watches,
        "freeze-watches": cluster.freeze_watches,
        "thaw-watches": cluster.thaw_watches,
        "expire-watches": cluster.expire_watches,
        "compact": cluster.compact,
        "restart": cluster.restart,
        "lose-node": lambda: cluster.lose_node(order.node),
        "restore-node": lambda: cluster.restore_node(order.node),
    }
    if order.fault not in orders:
        raise apierrors.bad_request(f"/_faults: unknown fault {order.fault!r}; one of {', '.join(orders)}")
    orders[order.fault]()
