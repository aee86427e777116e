"""The parts of a gateway's client: replicas, outputs, admission, owners, features, and who the caller is."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from controller.client.by_gateway import ByGateway, NeedsEtcd
from controller.client.errors import NotFound
from controller.client.features import Features, FeatureView
from controller.client.forecasts import Forecasts
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_paths import feature_part, pool_part, task_part
from controller.client.maintenance import DrainResult, Maintenance, new_window, parse_start
from controller.client.members import ArrayMembers, each_page
from controller.client.members import checked as checked_page
from controller.client.neighbours import Neighbours, checked
from controller.client.outputs import Outputs, parse_attempt
from controller.client.owners import Owners
from controller.client.pools import PoolAdmission
from controller.client.reading import parse_filter
from controller.client.replica_views import LeaderView, ReplicaView
from controller.client.replicas import Replicas, no_leader, parse_term
from controller.client.resumed_output import ResumedOutput
from controller.client.schedules import Schedules, parse_schedule_name
from controller.client.views import ApplyResult, OwnerView, SharingView
from controller.client.wire import view_of
from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.core.model import codec
from controller.core.model.kept_log import KeptLog
from controller.core.model.maintenance import Windows
from controller.core.model.schedules import parse_schedule
from controller.engine.base import ALL_LOGS, Engine, LogOptions
from controller.errors import CorruptValue, UserError
from controller.views.ahead import LOOK_SECONDS, ComparedView, LookAnswer, LookQuestion, parse_horizon
from controller.views.arrays import MAX_PAGE, PAGE, MemberPage, MemberView
from controller.views.dependencies import DEPTH, NODES, NeighboursView
from controller.views.forecast import ForecastView
from controller.views.gateways import GatewayView
from controller.views.schedules import ScheduleView
from controller.views.supposition import Supposition
from controller.views.usage import Usage, label_of


class Access:
    """Who the gateway takes its client for, and what it may do."""

    def __init__(self, http: GatewayCalls) -> None:
        self._http = http

    def whoami(self) -> dict[str, Any]:
        """The client's name, its groups, and what it may do."""
        found: dict[str, Any] = self._http.get("/v1/whoami")
        return found

    def may(self, right: str, *, task: str = "", owner: str = "", pool: str = "") -> bool:
        """Whether the caller may read, submit, cancel or administer (`admin`). Raises NotFound for a task."""
        return bool(self._http.get("/v1/can-i", act=right, task=task, owner=owner, pool=pool)["allowed"])


class GatewayReplicas(ByGateway, Replicas):
    def all(self) -> list[ReplicaView]:
        return view_of(list[ReplicaView], self._http.get("/v1/replicas")["items"])

    def gateways(self) -> list[GatewayView]:
        return view_of(list[GatewayView], self._http.get("/v1/gateways")["items"])

    def leader(self) -> LeaderView | None:
        found = self._http.get("/v1/leader")["leader"]
        return view_of(LeaderView, found) if found is not None else None

    def step_down(self) -> LeaderView:
        if (leader := self.leader()) is None:
            raise no_leader()
        self._http.post("/v1/leader/step-down", {"term": leader.term})  # a copy of it ends no other term
        return leader

    def end_term(self, term: int) -> None:
        self._http.post("/v1/leader/step-down", {"term": parse_term(term)})


class GatewayOutputs(ByGateway, Outputs):
    def logs(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        follow: bool = False,
        stop: threading.Event | None = None,
        engine: Engine | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        del engine  # the gateway has its own
        asked = {
            "attempt": "" if attempt is None else str(parse_attempt(attempt)),
            "follow": "true" if follow else "",
            "container": options.container,
            "tail": "" if options.tail is None else str(options.tail),
            "since_seconds": "" if options.since_seconds is None else str(math.ceil(options.since_seconds)),
            "previous": "true" if options.previous else "",
        }
        path, stopped = f"/v1/tasks/{task_part(task_id)}/logs", stop or threading.Event()
        number, begun = self._http.output(path, stopped, **asked)  # what is wrong is raised here
        asked["attempt"] = asked["attempt"] or number  # the last one is another one by and by
        is_from_its_begin = options == LogOptions(container=options.container)
        can_resume = is_from_its_begin and asked["attempt"]
        return ResumedOutput(self._http, path, stopped, asked).parts(begun) if can_resume else begun

    def last_attempt(self, task_id: str) -> int:
        return view_of(int, self._http.get(f"/v1/tasks/{task_part(task_id)}").get("attempt", 0))

    def engine(self, *_: object, **__: object) -> None:
        raise NeedsEtcd

    def bind(self, *_: object) -> None:
        raise NeedsEtcd

    def kept_log(self, task_id: str) -> KeptLog | None:
        try:
            return view_of(KeptLog, self._http.get(f"/v1/tasks/{task_part(task_id)}/log"))
        except NotFound:
            return None


class GatewayAdmission(ByGateway, PoolAdmission):
    def pause(self, pool: str) -> bool:
        return bool(self._http.post(f"/v1/pools/{pool_part(pool)}/pause")["changed"])

    def resume(self, pool: str) -> bool:
        return bool(self._http.post(f"/v1/pools/{pool_part(pool)}/resume")["changed"])


class GatewayMaintenance(ByGateway, Maintenance):
    def drain(
        self,
        pool: str,
        starts_at: float,
        ends_at: float,
        *,
        reason: str = "",
        by: str = "",  # noqa: ARG002  # the gateway knows
    ) -> DrainResult:
        new_window(starts_at, ends_at, reason, "", time.time())
        body = {"starts_at": starts_at, "ends_at": ends_at, "reason": reason}
        return view_of(DrainResult, self._http.post(f"/v1/pools/{pool_part(pool)}/drain", body))

    def undrain(self, pool: str, starts_at: float | None = None) -> Windows:
        parse_start(starts_at)
        found = self._http.post(f"/v1/pools/{pool_part(pool)}/undrain", {"starts_at": starts_at})
        return view_of(Windows, found["items"])


class GatewayOwners(ByGateway, Owners):
    def all(self, pool: str = "", *, counts: bool = True) -> list[OwnerView]:  # noqa: ARG002  # it has them
        return view_of(
            list[OwnerView], self._http.get("/v1/owners", pool=parse_filter(pool, "pool"))["items"]
        )

    def sharing(self, pool: str) -> SharingView:
        return view_of(SharingView, self._http.get(f"/v1/pools/{pool_part(pool)}/sharing"))

    def usage(self, *, by: str = "owner", pool: str = "", since: str = "", until: str = "") -> Usage:
        label_of(by)
        whose = parse_filter(pool, "pool")
        return view_of(Usage, self._http.get("/v1/usage", by=by, pool=whose, since=since, until=until))


class GatewayNeighbours(ByGateway, Neighbours):
    def of(
        self, task_id: str, *, direction: str = "both", depth: int = DEPTH, limit: int = NODES
    ) -> NeighboursView:
        way = checked(task_id, direction, depth, limit)
        path = f"/v1/tasks/{task_part(task_id)}/neighbours"
        return view_of(
            NeighboursView, self._http.get(path, direction=way, depth=str(depth), limit=str(limit))
        )


class GatewayMembers(ByGateway, ArrayMembers):
    def __call__(self, array: str, *, state: str = "", members: str = "") -> Iterator[MemberView]:
        return each_page(
            lambda offset: self.page(array, offset=offset, limit=MAX_PAGE, state=state, members=members)
        )

    def page(
        self, array: str, *, offset: int = 0, limit: int = PAGE, state: str = "", members: str = ""
    ) -> MemberPage:
        checked_page(offset, limit, state, members)
        asked = {"offset": str(offset), "limit": str(limit), "state": state, "members": members}
        found = self._http.get(f"/v1/tasks/{task_part(array)}/members", **asked)
        following = found["next_offset"]
        return MemberPage(
            view_of(list[MemberView], found["items"]), None if following is None else view_of(int, following)
        )


class GatewaySchedules(ByGateway, Schedules):
    def all(self) -> list[ScheduleView]:
        return view_of(list[ScheduleView], self._http.get("/v1/schedules")["items"])

    def get(self, name: str) -> ScheduleView:
        return view_of(ScheduleView, self._http.get(f"/v1/schedules/{parse_schedule_name(name)}"))

    def apply(self, definition: Mapping[str, Any], *, dry_run: bool = False) -> ApplyResult:
        name = parse_schedule(definition).name
        body, asked = dict(definition), "?dry_run=true" if dry_run else ""
        return view_of(ApplyResult, self._http.post(f"/v1/schedules/{name}{asked}", body, method="PUT"))

    def delete(self, name: str) -> None:
        self._http.post(f"/v1/schedules/{parse_schedule_name(name)}", method="DELETE")

    def suspend(self, name: str) -> bool:
        return self._switch(name, "suspend")

    def resume(self, name: str) -> bool:
        return self._switch(name, "resume")

    def _switch(self, name: str, verb: str) -> bool:
        path = f"/v1/schedules/{parse_schedule_name(name)}/{verb}"
        return bool(self._http.post(path)["changed"])


class GatewayForecasts(ByGateway, Forecasts):
    def of(self, *task_ids: str, horizon_seconds: float = HORIZON_SECONDS) -> ForecastView:
        names = [*map(task_part, task_ids)]
        horizon = parse_horizon(horizon_seconds, "horizon_seconds")
        return self._ask(LookQuestion(tasks=names, horizon_seconds=horizon)).now

    def _suppose(self, supposition: Supposition, horizon_seconds: float) -> ComparedView:
        answer = self._ask(LookQuestion(horizon_seconds=horizon_seconds, supposed=supposition))
        if answer.then is None:
            raise CorruptValue("the gateway's answer does not tell what would come")
        return answer.then

    def _ask(self, question: LookQuestion) -> LookAnswer:
        path = "/v1/forecast"
        try:
            told = self._http.ask(path, codec.to_builtins(question), timeout_seconds=4 * LOOK_SECONDS)
        except NotFound as error:
            if f"nothing at {path!r}" not in str(error):
                raise
            raise UserError(
                "this gateway cannot look ahead: upgrade it, or give --etcd, in place of --server or of the"
                " gateway that `tally login` has kept"
            ) from None
        return view_of(LookAnswer, told)


class GatewayFeatures(ByGateway, Features):
    def all(self) -> list[FeatureView]:
        return view_of(list[FeatureView], self._http.get("/v1/features")["items"])

    def enable(self, *names: str) -> tuple[str, ...]:
        answered = self._http.post(f"/v1/features/{feature_part(','.join(names))}/enable")
        # a gateway of a release that takes one name, and turns on nothing else, says only whether it has
        if "turned_on" not in answered:
            return names if answered["changed"] else ()
        return view_of(tuple[str, ...], answered["turned_on"])

    def drop(self, name: str) -> bool:
        return bool(self._http.post(f"/v1/features/{feature_part(name)}/drop")["changed"])
