"""Every copy of data has its row in `deploy/consistency.md`, with its guard and a test that breaks the guard.

`finding_copies` finds in the code what is read from other components, and what is kept. What is found and is
no copy is listed here, with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.architecture.finding_copies import (
    ROOT,
    kept,
    kept_for_others,
    last_name,
    names_of_seams,
    nodes_of,
    parsed,
    readings,
    sources,
)
from tests.architecture.test_fault_table import NAME, TESTS, defined

PAGE = ROOT.parent / "deploy" / "consistency.md"
CELLS = 5
# `file.py (get, watch)` reads; `file.py::Class`, `::Class.attribute` and `::function` keep.
PLACE = re.compile(r"`([\w/]+\.(?:py|js))(?:::([\w.]+))?`(?: \(([\w, ]+)\))?")

NO_COPY_READ = {
    "passes on what it measures, and keeps nothing": ["telemetry/measured.py"],
    "Tally's own files, which change only with it": ["endpoint/page/__init__.py"],
    "what a user gives to a command": ["cli/documents.py", "cli/sign_in.py"],
    "an attempt of a forecast, which nothing runs": ["core/forecast/ahead.py"],
    "the output of an attempt, passed on": ["gateway/reads.py"],
    "the null device, as the command's standard input": ["engine/process/attempt_command.py"],
    "its own helper, which is told what to start and tells nothing but that": [
        "engine/process/fork_server.py"
    ],
    "`tally dev`: the processes that it has started, and their files": [
        "dev/cluster.py",
        "dev/data_dir.py",
        "dev/etcd.py",
        "dev/run.py",
    ],
}

NO_COPY_KEPT = {
    "a value of its own: computed from its arguments alone": [
        "core/model/resources.py::Vector",
        "core/model/cron.py::_check",
        "core/model/nodes.py::terms_of",
        "core/model/sharing.py::Ceiling._amounts",
        "core/model/arrays.py::Ranges",
        "core/model/blocks.py::Block",
        "core/planning/folding.py::_Room",
        "core/model/sharing.py::guaranteed",
        "core/model/known_specs.py::KnownSpecs._specs",
        "core/model/packed_history.py::_known_end",
        "core/model/packed_history.py::_known_sequence",
        "core/model/resources.py::_amount",
        "core/model/resources.py::_shared",
        "core/model/resources.py::format_quantity",
        "core/model/validation.py::_checked_template",
        "endpoint/problems.py::Problem",
        "executor/executor.py::TallyExecutor._python",
        "executor/executor.py::TallyExecutor._task",
        "gateway/token_review.py::TokenReviews._audiences",
    ],
    "lives for one call, one answer or one command": [
        "cli/output.py::Table",
        "cli/yaml12.py::_Reader",
        "cli/forecast.py::_File._documents",
        "views/supposition.py::_Submission",
        "client/resumed_output.py::ResumedOutput",
        "core/forecast/ahead.py::Ahead",
        "core/forecast/pretended_engine.py::PretendedEngine",
        "core/forecast/course.py::PoolCourse",
        "core/forecast/course.py::_Area",
        "core/forecast/durations.py::Durations",
        "core/forecast/durations.py::_Kind",
        "core/model/owner_cursor.py::Cursor",
        "core/model/queue.py::ShrinkingRoom",
        "core/model/pool_demand.py::_Room",
        "core/model/touched.py::Touched",
        "endpoint/api.py::_Stream.body_iterator",
        "gateway/api.py::_Upload._ask",
        "notifier/line.py::Line",
        "store/etcd/endpoints.py::Tries",
        "store/etcd/gateway.py::Call",
        "telemetry/scrape.py::_Families.made",
        "views/dependencies.py::_Look",
        "audit/selftest/acts.py::Acts._term",
        "audit/selftest/stage.py::Stage.began",
        "audit/selftest/stage.py::Stage.tasks",
    ],
    "its own parts, built once": [
        "cli/session.py::Session._client",
        "client/client.py::Client._calls",
        "client/client.py::Client._known_pools",
        "client/client.py::Client._reading",
        "client/client.py::Client._requests",
        "client/client.py::Client.clock",
        "client/client.py::Client.admission",
        "client/client.py::Client.bulk",
        "client/client.py::Client.cluster",
        "client/client.py::Client.downstream",
        "client/client.py::Client.features",
        "client/client.py::Client.forecasts",
        "client/client.py::Client.hold",
        "client/client.py::Client.keys",
        "client/client.py::Client.maintenance",
        "client/client.py::Client.members",
        "client/client.py::Client.neighbours",
        "client/client.py::Client.notices",
        "client/client.py::Client.outputs",
        "client/client.py::Client.owners",
        "client/client.py::Client.release",
        "client/client.py::Client.replicas",
        "client/client.py::Client.schedules",
        "client/client.py::Client.set_priority",
        "client/client.py::Client.store",
        "client/client.py::Client.usage",
        "client/gateway_client.py::GatewayClient.cluster",
        "gateway/threads.py::Threads._turns",
        "gateway/server.py::GatewayServer._ends",
        "gateway/server.py::GatewayServer._server",
        "gateway/server.py::GatewayServer.url",
        "notifier/courier.py::Courier._workers",
        "gateway/sessions.py::Sessions._own",
        "gateway/sign_in.py::SignIn._providers",
        "endpoint/pages.py::TaskPages._by",
        "endpoint/server.py::StatusServer._server",
        "endpoint/server.py::StatusServer._subscriptions",
        "endpoint/server.py::StatusServer.url",
        "engine/docker/daemon.py::DockerDaemon._client",
        "engine/docker/engine.py::DockerEngine._locks",
        "engine/kubernetes/engine.py::KubernetesEngine._selector",
        "runtime/actuator.py::Actuator._threads",
        "runtime/observer.py::Observer._threads",
        "store/etcd/client.py::_client",
        "store/etcd/connection.py::_pool",
        "store/mirror.py::Readers._listeners",
        "telemetry/metrics.py::Metrics._counters",
        "telemetry/metrics.py::Metrics._children",
        "telemetry/metrics.py::Metrics._histograms",
        "telemetry/notify.py::ServiceNotifier._beat",
        "telemetry/notify.py::ServiceNotifier._view",
    ],
    "its own connection, process or watch, to be closed": [
        "client/connections.py::Connections",
        "endpoint/connections.py::Door",
        "endpoint/connections.py::StatusProtocol",
        "engine/kubernetes/watch.py::ObjectWatch._stream",
        "gateway/attempt_logs.py::AttemptLogs._engine",
        "gateway/attempt_logs.py::AttemptLogs._readings",
        "gateway/attempt_logs.py::AttemptLogs._unopened",
        "gateway/attempt_logs.py::AttemptLogs._again_at",
        "client/stop_event.py::StopEvent._open",
        "engine/process/fork_server.py::ForkServer",
        "runtime/follower.py::Follower._watch",
        "store/etcd/store.py::EtcdStore._watches",
        "store/etcd/watch.py::EtcdWatch._connected_at",
        "store/etcd/watch.py::EtcdWatch._response",
    ],
    "its own counts": [
        "bulkhead.py::counts",
        "engine/docker/daemon.py::DockerDaemon.faults",
        "engine/kubernetes/api.py::KubernetesApi.faults",
        "gateway/openings.py::Openings._of_all",
        "gateway/openings.py::Openings._of_one",
        "gateway/sign_in.py::SignIn._asking",
        "gateway/token_review.py::TokenReviews.error",
        "notifier/rounds.py::Rounds.by_host",
        "notifier/rounds.py::Rounds.dead",
        "notifier/rounds.py::Rounds.delivered",
        "notifier/rounds.py::Rounds.retries",
        "runtime/follower.py::Follower.reloads",
        "store/etcd/endpoints.py::Endpoints.failures",
        "store/etcd/store.py::EtcdStore.reconnects",
        "store/etcd/watch.py::EtcdWatch.reconnects",
    ],
    "its own pace: when it acts next, or has acted last": [
        "election/elector.py::Elector._nameless",
        "election/elector.py::Elector._not_before",
        "election/sentinel.py::Sentinel._acted_at",
        "engine/kubernetes/api.py::RateLimit",
        "gateway/rates.py::Rates._buckets",
        "runtime/standby.py::Standby._beat",
        "notifier/receivers.py::Receiver.busy",
        "notifier/receivers.py::Receiver.host",
        "notifier/receivers.py::Receiver.not_before",
        "notifier/receivers.py::Receiver.place",
        "notifier/receivers.py::Receiver.ready",
        "notifier/receivers.py::Receiver.streak",
        "notifier/receivers.py::Receiver.url",
        "notifier/receivers.py::ReceivingHost.busy",
        "notifier/receivers.py::ReceivingHost.name",
        "notifier/receivers.py::ReceivingHost.parked",
        "notifier/receivers.py::ReceivingHost.receivers",
        "notifier/rounds.py::Rounds._agenda",
        "notifier/rounds.py::Rounds._busy",
        "notifier/rounds.py::Rounds._crowd",
        "runtime/office.py::Office._elected_at",
        "runtime/office.py::Office.beat",
        "runtime/reconciler.py::Reconciler._not_before",
        "telemetry/notify.py::ServiceNotifier._due",
    ],
    "what it was told to do, or what it does now": [
        "election/elector.py::Elector._release",
        "election/elector.py::Elector._stopped",
        "election/elector.py::Elector._why_not",
        "runtime/failpoints.py::_Armed",
        "runtime/failpoints.py::_armed",
        "runtime/phase.py::Phases",
    ],
    "the origin itself, and no copy: the store in memory, the null engine, the process of an attempt": [
        "engine/null.py::NullEngine",
        "engine/process/attempt_supervisor.py::_told",
        "engine/process/attempt_supervisor.py::Supervisor._finished_at",
        "engine/process/attempt_supervisor.py::Supervisor._gate",
        "engine/process/attempt_supervisor.py::Supervisor._is_interrupted",
        "engine/process/attempt_supervisor.py::Supervisor._kill_at",
        "engine/process/attempt_supervisor.py::Supervisor._lock",
        "engine/process/attempt_supervisor.py::Supervisor._main",
        "engine/process/attempt_supervisor.py::Supervisor._main_status",
        "engine/process/attempt_supervisor.py::Supervisor._record",
        "engine/process/attempt_supervisor.py::Supervisor._wake",
        "store/memory.py::MemoryStore",
        "store/memory.py::MemoryWatch",
        "store/memory.py::_Lease",
        "store/memory.py::_Server",
    ],
    "`tally dev`: the processes that it has started": [
        "dev/cluster.py::LocalCluster",
        "dev/cluster.py::ReplicaProcess",
        "dev/etcd.py::EtcdProcess",
    ],
}


class Found(NamedTuple):
    """What the code reads, as `file (call)`, and what it keeps, as `file::name`."""

    read: frozenset[str]
    kept: frozenset[str]


pytestmark = pytest.mark.xdist_group("copies")  # the code is read once


@cache
def found() -> Found:
    return find(sources())


def find(texts: Mapping[str, str]) -> Found:
    """What these modules read and keep."""
    modules = {path: text for path, text in texts.items() if path.endswith(".py")}
    trees: dict[str, ast.AST] = {path: parsed(text) for path, text in modules.items()}
    seams = names_of_seams(trees.values())
    scripts = {path: text for path, text in texts.items() if path.endswith(".js")}
    read = {f"{path} ({call})" for path, text in modules.items() for call in readings(text, seams)}
    read |= {f"{path} ({call})" for path, text in scripts.items() for call in readings_of_page(text)}
    keeps = {f"{path}::{name}" for path, text in modules.items() for name in kept(text)}
    return Found(frozenset(read), frozenset(keeps | kept_for_others(trees)))


def readings_of_page(text: str) -> set[str]:
    """How a script of the live page reads, or keeps something in the browser."""
    return set(re.findall(r"\b(fetch|EventSource|localStorage|sessionStorage|indexedDB|caches)\b[.(]", text))


class Row(NamedTuple):
    """A row of the tables of copies."""

    copy: str
    places: str
    acts: str
    guard: str
    broken_by: str

    def named(self) -> set[str]:
        """The places, one by one, as in Found; a class stands for all that it keeps."""
        named: set[str] = set()
        for path, name, calls in PLACE.findall(self.places):
            named |= {f"{path} ({call})" for call in calls.split(", ")} if calls else {f"{path}::{name}"}
        return named


def rows() -> list[Row]:
    _, _, part = PAGE.read_text().partition("## Every copy and its guard")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|")
    ]
    return [Row(*each) for each in cells if len(each) == CELLS and each[0] not in ("copy", "---")]


ROWS = rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.copy[:50])


def classes_of(place: str) -> set[str]:
    """`file::Class` and `file::Class.method` of `file::Class.method.local`."""
    path, _, name = place.partition("::")
    return {f"{path}::{name[: dot.start()]}" for dot in re.finditer(r"\.", name)}


def is_named(place: str, named: set[str]) -> bool:
    """Whether what is kept is named, alone or by its class."""
    return place in named or bool(classes_of(place) & named)


def exempt(reasons: Mapping[str, list[str]]) -> set[str]:
    return {place for places in reasons.values() for place in places}


def unnamed(code: Found, named: set[str]) -> list[str]:
    """What neither a row nor an exemption names."""
    kept_apart, read_apart = exempt(NO_COPY_KEPT), exempt(NO_COPY_READ)
    missing = [place for place in code.kept if not is_named(place, named | kept_apart)]
    missing += [place for place in code.read if place not in named and place.split()[0] not in read_apart]
    return sorted(missing)


def all_named() -> set[str]:
    return {place for row in ROWS for place in row.named()}


def complaint(places: list[str], of_them: str) -> str:
    """What to say of these places, each on its own line."""
    return "".join(f"\n  {place}" for place in sorted(places)) + f"\n{of_them}"


def test_every_copy_has_its_row() -> None:
    missing = unnamed(found(), all_named())
    assert not missing, complaint(
        missing,
        f"have no row in deploy/{PAGE.name}. Say there who acts on the copy, what guards it, and which test"
        f" breaks that; or say in tests/architecture/{Path(__file__).name} why it is no copy.",
    )


def test_no_row_and_no_exemption_is_stale() -> None:
    """What it names is in the code, and the same thing is not a copy and none.

    A row may also name the class of a value that is handed on, which the finder does not see.
    """
    code, named = found(), all_named()
    apart = exempt(NO_COPY_KEPT)
    there = code.kept | code.read | {each for place in code.kept for each in classes_of(place)}
    stale = [place for place in named - values() | apart if place not in there]
    stale += [path for path in exempt(NO_COPY_READ) if not any(read.split()[0] == path for read in code.read)]
    assert not stale, complaint(stale, "no longer read or keep anything, but a row or an exemption says so.")
    twice = [place for place in code.kept if is_named(place, named) and is_named(place, apart)]
    assert not twice, complaint(twice, "are copies by a row, and none by an exemption.")


@cache
def values() -> frozenset[str]:
    """The immutable classes of the code, as `file::Class`."""
    return frozenset(
        f"{path}::{node.name}"
        for path, text in sources().items()
        if path.endswith(".py")
        for node in nodes_of(parsed(text))
        if isinstance(node, ast.ClassDef) and any(last_name(base) == "NamedTuple" for base in node.bases)
    )


@each_row
def test_a_row_says_all(row: Row) -> None:
    """The places, who acts, the guard, and tests that exist."""
    assert all(row), "an empty cell"
    assert PLACE.sub("", row.places).strip(", ") == "", "what is no place"
    tests = NAME.findall(row.broken_by)
    assert tests, "no test"
    assert len(tests) == row.broken_by.count("`") // 2, "what is no test"
    for file, name in tests:
        path = TESTS / file
        assert path.is_file(), f"there is no {file}"
        assert "::test_" in name, f"{file}{name} is no test"
        assert name in defined(path), f"{file} has no {name[2:]}"


def test_every_table_has_its_columns() -> None:
    """A row with a cell too many, or one too few, would be overlooked."""
    _, _, part = PAGE.read_text().partition("## Every copy and its guard")
    lines = [line for line in part.splitlines() if line.startswith("|")]
    odd = [line for line in lines if line.count("|") != CELLS + 1]
    assert odd == []
    assert len(ROWS) == len(lines) - 2 * part.count("| copy |")
    assert len(ROWS) > 40


@pytest.mark.parametrize(
    ("file", "name"), sorted(set(re.findall(r"`([\w/]+/test_\w+\.py)((?:::\w+)*)`", PAGE.read_text())))
)
def test_each_test_that_the_page_names_exists(file: str, name: str) -> None:
    """Also in its first part, and a file alone."""
    assert (TESTS / file).is_file()
    assert not name or name in defined(TESTS / file)
