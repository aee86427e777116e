"""One act on many tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial

from controller.client.requests import Requests
from controller.client.views import RequestResult, TaskView
from controller.errors import InvalidField, UserError

MAX_ACTS = 256  # tasks that one request of a gateway acts on
AT_ONCE = 8  # requests; each takes a few calls of etcd, one after the other


class TaskAct(StrEnum):
    """What can be asked for of many tasks together. Each is the verb of the client that has its name."""

    CANCEL = "cancel"
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    SET_PRIORITY = "set-priority"


class Bulk:
    """See the module's docstring."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def act(
        self, act: TaskAct, views: Iterable[TaskView], *, reason: str = "", priority: int | None = None
    ) -> Iterator[RequestResult | UserError]:
        """Ask the leader for this, of the very tasks that were shown. One result for each, in their order.

        An error that is one task's alone, such as NotFound, is its result, and stops no other. An error that
        would hit all, such as StoreUnavailable or GatewayUnavailable, is raised in the turn of its task; what
        was asked for of the others stays asked for. `priority` goes with `TaskAct.SET_PRIORITY`, and with
        nothing else; raises InvalidField.
        """
        check_priority(act, priority)
        return self._results(act, views, reason, priority)

    def _results(
        self, act: TaskAct, views: Iterable[TaskView], reason: str, priority: int | None
    ) -> Iterator[RequestResult | UserError]:
        requests = self._requests
        if priority is not None:
            verb: Callable[..., RequestResult] = partial(requests.set_priority, priority=priority)
        else:
            verbs: Mapping[TaskAct, Callable[..., RequestResult]] = {
                TaskAct.CANCEL: requests.cancel,
                TaskAct.RETRY: requests.retry,
                TaskAct.HOLD: requests.hold,
                TaskAct.RELEASE: requests.release,
            }
            verb = verbs[act]

        def answer(view: TaskView) -> RequestResult | UserError:
            try:
                return verb(view.id, reason=reason, of=view)
            except UserError as error:
                return error

        with ThreadPoolExecutor(AT_ONCE, "tally-bulk") as several:
            yield from several.map(answer, views)


def check_priority(act: TaskAct, priority: int | None) -> None:
    """Raises InvalidField if there is a priority and the act takes none, or the other way round."""
    if act is TaskAct.SET_PRIORITY and priority is None:
        raise InvalidField("priority", f"is required with {act}")
    if act is not TaskAct.SET_PRIORITY and priority is not None:
        raise InvalidField("priority", f"goes with {TaskAct.SET_PRIORITY} alone, not with {act}")
