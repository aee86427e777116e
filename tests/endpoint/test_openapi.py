"""The OpenAPI document against what is served."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from controller.endpoint.openapi import HEADERS
from controller.endpoint.routes import ROUTES
from controller.errors import CorruptValue, InvalidField, TallyError
from controller.views.replica import Check
from tests.endpoint.conftest import Files, reader, serving
from tests.endpoint.model_view import ModelView

STREAM = "/v1/events"


def test_the_document_describes_every_route_and_nothing_else(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {route.path for route in ROUTES}
    for route in ROUTES:
        assert list(document["paths"][route.path]) == ["get"]
        answers = document["paths"][route.path]["get"]["responses"]
        assert {"200", *(str(int(status)) for status in route.problems)} <= set(answers)
        assert (answers.pop("401", None) is None) is route.is_probe
        assert all(set(answer["headers"]) == set(HEADERS) for answer in answers.values())


def test_the_reference_names_every_path() -> None:
    """In its section about HTTP, as `tasks/NAME/members`."""
    text = (Path(__file__).parents[2] / "deploy" / "reference.md").read_text()
    section = text.partition("## HTTP API")[2].partition("\n## ")[0]
    for route in ROUTES:
        if route.path.startswith("/v1/"):
            path = re.sub(r"\{[a-z_]+\}", "NAME", route.path.removeprefix("/v1/"))
            assert f"`{path}`" in section


def test_every_route_answers_as_described(http: httpx.Client, view: ModelView) -> None:
    view.define_pool("default", cpu=1000)
    view.submit("a")
    for route in ROUTES:
        if route.path == STREAM:
            continue  # has no end
        answer = http.get(route.path.format(id="a", name="default"))
        described = {200, *map(int, route.problems)}
        assert answer.status_code in described, route.path
        if answer.status_code == HTTPStatus.OK:
            assert answer.headers["content-type"].partition(";")[0] == route.content_type.partition(";")[0]


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "TLS and token"])
def test_answers_hold_what_the_document_says(view: ModelView, files: Files, protected: bool) -> None:
    """Generated requests, valid and not, against a model with all kinds of records: status codes, headers
    and bodies fit.
    """
    with serving(view, files.tls | files.token if protected else {}) as server, reader(server, files) as http:
        _hold(view, http, files if protected else None)


def _hold(view: ModelView, http: httpx.Client, files: Files | None) -> None:
    view.define_pool("default", cpu=1000)
    view.submit("0", labels={"team": "blue"}, env={"A": "1"})
    view.submit("1", pool="other")
    view.keep_log("0", "\x1b[31mred\x00\ud7ff")
    view.set_state("1", State.RUNNING, hold=Vector({"cpu": 500}))
    view.write(
        ("states", ("2",), b"garbage"), ("leader", (), b'{"id":"replica-b"}'), ("replicas", ("r",), b"{}")
    )
    schema = schemathesis.openapi.from_dict(http.get("/openapi.json").json())
    schema.config.update(base_url=str(http.base_url).rstrip("/"))
    checked = 0
    session = requests.Session()
    session.trust_env = False
    if files is not None:
        schema.config.update(tls_verify=files.authority.ca_file)
        session.headers["Authorization"] = f"Bearer {files.secret}"

    @given(st.data())
    @settings(
        max_examples=100 if files is None else 40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def requests_hold(data: st.DataObject) -> None:
        nonlocal checked
        route = data.draw(st.sampled_from([route for route in ROUTES if route.path != STREAM]))
        view.checks = (Check("model", data.draw(st.booleans()), "drawn"),)
        view.role = data.draw(st.sampled_from(["leader", "follower"]))
        view.report = TallyError("silent") if data.draw(st.booleans()) else {"verdict": "ok"}
        view.logs["1"] = data.draw(
            st.sampled_from([TallyError("silent"), CorruptValue("not JSON"), InvalidField("id", "no")])
        )
        view.time += 60  # no audit is answered again
        case = data.draw(schema[route.path]["GET"].as_strategy())
        if "min_revision" in case.query:
            case.query.pop("wait", None)  # it would be waited for
        answer = case.call(session=session)
        # A check that fails is answered 503, and a revision that is not there 412: both are described, and no
        # faults. What `continue` may be is known by the page before alone.
        described: dict[int, list[Any]] = {503: [not_a_server_error], 412: [positive_data_acceptance]}
        if "continue" in case.query:
            described[400] = [positive_data_acceptance]
        case.validate_response(answer, excluded_checks=described.get(answer.status_code, []))
        checked += 1

    with session:
        requests_hold()
    assert checked >= 10
