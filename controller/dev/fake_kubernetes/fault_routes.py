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
from typing import Any

import msgspec

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.cluster_state import ClusterState


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


def answer(state: ClusterState, restart: Callable[[], None], method: str, path: str, body: bytes) -> Any:
    """Carry it out. Raises ApiError 400 for an order that is not understood."""
    if method == "GET" and path == "/_faults/executions":
        return state.executions
    if method == "POST":
        try:
            order = msgspec.json.decode(body, type=FaultOrder)
        except msgspec.MsgspecError as error:
            raise apierrors.bad_request(f"/_faults: {error}") from error
        _carry_out(state, restart, order)
    elif method == "DELETE":
        state.faults.clear()
    active = [
        f"{fault.kind} {fault.verb} {fault.resource} left={fault.left} rate={fault.rate}"
        for fault in state.faults.active()
    ]
    return {"active": active, "struck": dict(state.faults.struck)}


def _carry_out(state: ClusterState, restart: Callable[[], None], order: FaultOrder) -> None:
    chosen: dict[str, Any] = {"resource": order.resource, "times": order.times, "rate": order.rate}
    orders: dict[str, Callable[[], object]] = {
        "drop-answers": lambda: state.faults.drop_answers(order.verb, **chosen),
        "drop-requests": lambda: state.faults.drop_requests(order.verb, **chosen),
        "delay": lambda: state.faults.delay(order.seconds, order.verb, **chosen),
        "fail": lambda: state.faults.fail(order.status, order.verb, retry_after=order.retry_after, **chosen),
        "hold": lambda: state.faults.hold(order.verb, resource=order.resource, times=order.times),
        "cut-watches": state.watches.cut,
        "freeze-watches": state.watches.freeze,
        "thaw-watches": state.watches.thaw,
        "expire-watches": state.watches.expire,
        "compact": state.storage.compact,
        "restart": restart,
        "lose-node": lambda: state.lose_node(order.node),
        "restore-node": lambda: state.restore_node(order.node),
    }
    if order.fault not in orders:
        raise apierrors.bad_request(f"/_faults: unknown fault {order.fault!r}; one of {', '.join(orders)}")
    orders[order.fault]()
