"""The status endpoint over real HTTP: what it answers, to whom, and how it refuses."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from controller.endpoint.connections import MAX_HEAD_BYTES
from controller.endpoint.last_audit import AUDIT_SECONDS
from controller.endpoint.server import StatusAddressUnavailable, StatusServer
from controller.endpoint.store_reads import MAX_ASKED
from controller.errors import CorruptValue, TallyError
from controller.views.replica import Check
from tests.endpoint.model_view import ModelView
from tests.support.waiting import wait_until


def assert_problem(answer: httpx.Response, status: int, parameter: str = "") -> dict[str, Any]:
    """An RFC 9457 document with that status, naming that parameter."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem.get("parameter", "") == parameter
    return dict(problem)


def test_every_answer_tells_how_fresh_it_is_and_who_gave_it(http: httpx.Client, view: ModelView) -> None:
    revision = view.submit("a")
    for path in ("/", "/livez", "/metrics", "/v1/tasks", "/v1/tasks/none", "/nowhere"):
        headers = http.get(path).headers
        assert headers["Tally-Revision"] == str(revision), path
        assert headers["Tally-Role"] == "follower"
        assert headers["Tally-Leader-Known"] == "true"
        assert float(headers["Tally-Staleness-Seconds"]) == 0.25
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/v1/tasks", "/v1/tasks/a", "/nowhere"])
def test_whatever_is_not_reading_is_refused(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path, content=b"{}")
    assert_problem(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD"


def test_unknown_routes_are_problems_too(http: httpx.Client) -> None:
    assert "/nowhere" in str(assert_problem(http.get("/nowhere"), 404)["detail"])


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=1_0", "limit"),
        ("limit=５", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=Runing", "state"),
        ("state=", "state"),
        ("label=a=b=c", "label"),
        ("label=", "label"),
        ("continue=xyz", "continue"),
        ("pool=", "pool"),
        ("sate=Running", "sate"),
        ("min_revision=-1", "min_revision"),
        ("wait=nan", "wait"),
        ("wait=31", "wait"),
        ("wait=-1", "wait"),
    ],
)
def test_bad_parameters_are_named(http: httpx.Client, query: str, parameter: str) -> None:
    assert_problem(http.get(f"/v1/tasks?{query}"), 400, parameter)


def test_the_live_page_runs_nothing_but_its_own_scripts(http: httpx.Client) -> None:
    """The policy allows no inline script or style and no other host; every part that the page names is
    served.
    """
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    parts = re.findall(r"/static/[\w.]+", page.text)
    parts += [
        part
        for name in parts
        if name.endswith(".js")
        for part in re.findall(r"/static/[\w.]+", http.get(name).text)
    ]
    assert len(set(parts)) >= 6
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for part in set(parts):
        answer = http.get(part)
        assert answer.headers["content-type"].startswith(kinds[part.rpartition(".")[2]]), part
    for path in ("/static/none.js", "/static/__init__.py", "/static/..%2fapi.py"):
        assert_problem(http.get(path), 404)


# -- health
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_health_names_the_checks_that_fail(http: httpx.Client, view: ModelView, path: str) -> None:
    assert http.get(path).text == "ok\n"
    assert http.get(f"{path}?verbose").text == "[+]model ok: loaded\nok\n"
    assert http.get(f"{path}?from=a-load-balancer").status_code == 200
    view.checks = (Check("model", True, "loaded"), Check("store", False, "not heard of for 12 s"))
    assert assert_problem(http.get(path), 503)["checks"] == ["store: not heard of for 12 s"]


def test_a_replica_that_has_not_loaded_says_so_instead_of_showing_nothing(
    http: httpx.Client, view: ModelView
) -> None:
    view.loaded = False
    for path in ("/v1/tasks", "/v1/pools", "/v1/tasks/absent"):
        answer = http.get(path)
        assert answer.status_code == 503, path
        assert "not loaded" in answer.json()["detail"]
    assert http.get("/livez").status_code == 200


def test_health_is_answered_while_the_model_is_busy(http: httpx.Client, view: ModelView) -> None:
    readers: list[threading.Thread] = []
    with view.lock:
        for _ in range(20):
            readers.append(
                threading.Thread(
                    target=httpx.get, args=(f"{http.base_url}/v1/pools",), kwargs={"trust_env": False}
                )
            )
            readers[-1].start()
        assert http.get("/livez").status_code == 200
        assert http.get("/leader").status_code == 503
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()


def test_leader_answers_200_on_the_leader_alone(http: httpx.Client, view: ModelView) -> None:
    assert "replica-b" in str(assert_problem(http.get("/leader"), 503)["detail"])
    view.role = "leader"
    assert http.get("/leader").status_code == 200
    assert http.head("/leader").status_code == 200


# -- reading
# ---------------------------------------------------------------------------------------------------------


def test_pages_hold_every_task_once_while_others_come_and_go(http: httpx.Client, view: ModelView) -> None:
    """Paging by id: what was there all the time is seen exactly once, whatever is added or removed
    meanwhile.
    """
    stays = [f"t{n:03}" for n in range(0, 100, 2)]
    for name in stays:
        view.submit(name)
    seen: list[str] = []
    token, turn = "", 0
    while True:
        answer = http.get("/v1/tasks", params={"limit": 7} | ({"continue": token} if token else {})).json()
        assert len(answer["items"]) <= 7
        seen += [task["id"] for task in answer["items"]]
        token, turn = answer["continue"], turn + 1
        if not token:
            break
        view.submit(f"t{(turn * 17) % 100 | 1:03}")
        view.write(("tasks", (f"t{(turn * 5) % 100 | 1:03}",), None))
    assert [name for name in seen if name in stays] == stays
    assert len(seen) == len(set(seen))


def test_each_order_is_right_across_pages(http: httpx.Client, view: ModelView) -> None:
    """D9: sorted over all tasks, and not within a page; a page of another order is refused in words."""
    states = [State.RUNNING, State.SUCCEEDED, State.FAILED, None]
    for n in range(40):
        view.submit(f"t{n:02}", at=900.0 + n * 7 % 40, pool="ab"[n % 2])
        if (state := states[n % 4]) is not None:
            view.set_state(f"t{n:02}", state, pool="ab"[n % 2])
    view.write(("states", ("t39",), b"garbage"))

    def pages(sort: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        token = ""
        while True:
            answer = http.get(
                "/v1/tasks", params={"limit": "7", "sort": sort} | ({"continue": token} if token else {})
            ).json()
            found += answer["items"]
            token = answer["continue"]
            if not token:
                return found

    by_name = pages("name")
    assert [task["id"] for task in by_name] == [f"t{n:02}" for n in range(40)]
    assert pages("-name") == by_name[::-1]
    assert pages("submitted") == sorted(by_name, key=lambda task: task["submitted_at"])
    assert pages("-submitted") == sorted(
        by_name, key=lambda task: (task["submitted_at"], task["id"]), reverse=True
    )
    assert pages("pool") == sorted(by_name, key=lambda task: task["pool"])
    assert pages("-pool") == sorted(by_name, key=lambda task: task["pool"], reverse=True)
    order = [*map(str, State), None]
    assert pages("state") == sorted(by_name, key=lambda task: order.index(task["state"]))
    assert pages("-state") == sorted(by_name, key=lambda task: order.index(task["state"]), reverse=True)

    token = http.get("/v1/tasks?limit=2&sort=-pool").json()["continue"]
    problem = assert_problem(http.get(f"/v1/tasks?sort=name&continue={token}"), 400, "continue")
    assert "sort=-pool" in str(problem["detail"])


def test_tasks_are_filtered_by_pool_state_and_label(http: httpx.Client, view: ModelView) -> None:
    view.submit("a", labels={"team": "blue", "gpu": "yes"})
    view.submit("b", labels={"team": "red"})
    view.submit("c", pool="other")
    view.set_state("b", State.RUNNING)

    def ids(**params: str) -> list[str]:
        return [task["id"] for task in http.get("/v1/tasks", params=params).json()["items"]]

    assert ids() == ["a", "b", "c"]
    assert ids(pool="other") == ["c"]
    assert ids(state="Running") == ["b"]
    assert ids(state="Running,Created") == ["a", "b", "c"]
    assert ids(state="Failed") == []
    assert ids(label="team=blue") == ids(label="team==blue,gpu") == ["a"]
    assert ids(label="team!=blue") == ["b", "c"]
    assert ids(label="!team") == ["c"]
    view.submit("a-b")
    assert ids(search="a") == ["a", "a-b"]
    assert ids(search="-") == ["a-b"]


def test_a_page_scans_on_until_it_is_full(http: httpx.Client, view: ModelView) -> None:
    """Matches beyond the first chunk that is scanned are found, and the token goes on from there."""
    for n in range(1500):
        view.submit(f"t{n:04}", labels={"k": "v"} if n in (3, 1200, 1400) else {})
    first = http.get("/v1/tasks?label=k%3Dv&limit=2").json()
    assert [task["id"] for task in first["items"]] == ["t0003", "t1200"]
    rest = http.get(f"/v1/tasks?label=k%3Dv&limit=2&continue={first['continue']}").json()
    assert [task["id"] for task in rest["items"]] == ["t1400"]
    assert rest["continue"] == ""


def test_environment_values_are_masked_wherever_they_stand(http: httpx.Client, view: ModelView) -> None:
    template = {
        "metadata": {"labels": {"env": "prod"}},
        "spec": {"containers": [{"name": "x", "env": [{"name": "B", "value": "hush"}]}]},
    }
    view.submit("a", env={"PASSWORD": "hush"}, labels={"env": "prod"}, pod_template=template)
    pool = (
        b'{"name":"p","capacity":{"cpu":"1"},'
        b'"engine_options":{"template":{"env":[{"name":"C","value":"hush"}]}}}'
    )
    view.write(("pools", ("p",), pool))
    spec = http.get("/v1/tasks/a").json()["spec"]
    assert spec["env"] == {"PASSWORD": "***"}
    assert spec["labels"] == {"env": "prod"}
    assert spec["pod_template"]["metadata"] == {"labels": {"env": "prod"}}
    assert spec["pod_template"]["spec"]["containers"][0]["env"] == [{"name": "B", "value": "***"}]
    for path in ("/v1/tasks", "/v1/tasks/a", "/v1/pools", "/v1/pools/p"):
        assert "hush" not in http.get(path).text, path


def test_a_task_shows_its_history_and_what_does_not_parse(http: httpx.Client, view: ModelView) -> None:
    view.submit("a")
    view.set_state("a", State.PENDING, hold=Vector({"cpu": 500}))
    task = http.get("/v1/tasks/a").json()
    assert (task["state"], task["hold"], task["history"][0]["event"]) == (
        "Pending",
        {"cpu": "500m"},
        "admitted",
    )
    view.write(("states", ("a",), b"garbage"))
    damaged = http.get("/v1/tasks/a").json()
    assert damaged["state"] is None
    assert "states: " in damaged["problem"]
    assert http.get("/v1/tasks?state=Pending").json()["items"] == []
    assert_problem(http.get("/v1/tasks/none"), 404)


def test_pools_show_overcommit_and_what_remains_of_a_removed_pool(
    http: httpx.Client, view: ModelView
) -> None:
    view.define_pool("default", cpu=1000)
    view.write(("ledgers", ("default",), b'{"version":1,"held":{"cpu":"1"},"op":"x"}'))
    assert http.get("/v1/pools").json()["items"][0]["free"] == {"cpu": "0"}, "nothing is free, and it says so"
    view.write(("ledgers", ("default",), b'{"version":1,"held":{"cpu":"1500m"},"op":"x"}'))
    pool = http.get("/v1/pools/default").json()
    assert (pool["free"], pool["overcommitted"]) == ({"cpu": "-500m"}, ["cpu"])
    view.write(("pools", ("default",), None))
    assert "no longer defined" in http.get("/v1/pools/default").json()["problem"]
    assert "default" in str(assert_problem(http.get("/v1/pools/none"), 404)["detail"])


def test_replicas_and_leader_are_as_registered(http: httpx.Client, view: ModelView) -> None:
    term = view.write(("leader", (), b'{"id":"replica-b"}'))
    view.write(("replicas", ("replica-a",), b'{"id":"replica-a"}'), ("replicas", ("replica-b",), b"junk"))
    assert http.get("/v1/leader").json() == {
        "known": True,
        "replica": "replica-b",
        "term": term,
        "epoch": 3,
        "record": {"id": "replica-b"},
    }
    assert [(item["id"], item["leads"]) for item in http.get("/v1/replicas").json()["items"]] == [
        ("replica-a", False),
        ("replica-b", True),
    ]


def test_own_writes_can_be_read(http: httpx.Client, view: ModelView) -> None:
    """min_revision waits until the model has caught up, and says so when it has not in time."""
    revision = view.submit("a")
    assert http.get(f"/v1/tasks/a?min_revision={revision}").status_code == 200
    assert_problem(http.get(f"/v1/tasks/b?min_revision={revision + 1}"), 412, "min_revision")
    assert_problem(http.get(f"/v1/tasks/b?min_revision={revision + 1}&wait=0.05"), 412, "min_revision")
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(http.get(f"/v1/tasks/b?min_revision={revision + 1}&wait=20"))
    )
    waiting.start()
    listener: Any = view.listeners[0]
    wait_until(lambda: listener._waiting, "the reader's wait")
    view.submit("b")
    waiting.join(30)
    assert answers[0].status_code == 200
    assert int(answers[0].headers["Tally-Revision"]) >= revision + 1


def test_audits_are_answered_again_for_a_while(http: httpx.Client, view: ModelView) -> None:
    """Asking often cannot load the engine; neither can an audit that fails."""
    assert http.get("/v1/audit").json() == view.report
    http.get("/v1/audit")
    assert view.audits == 1
    view.time += AUDIT_SECONDS
    view.report = TallyError("etcd does not answer")
    assert "etcd does not answer" in str(assert_problem(http.get("/v1/audit"), 503)["detail"])
    assert_problem(http.get("/v1/audit"), 503)
    assert view.audits == 2


def test_what_is_kept_of_a_tasks_output(http: httpx.Client, view: ModelView) -> None:
    """As it was printed, whatever that is; and why there is none."""
    view.submit("a", keep_logs=True)
    assert http.get("/v1/tasks/a").json()["kept_log_revision"] == 0
    assert "keep_logs" in assert_problem(http.get("/v1/tasks/a/log"), 404)["detail"]
    printed = "</pre><script>alert(1)</script>\x1b[31m\x00\r\n\u202e\ufffd"
    view.keep_log("a", printed, attempt=2, truncated=True, at=990.0)
    assert http.get("/v1/tasks/a").json()["kept_log_revision"] == view.model.revision
    expected = {"task": "a", "attempt": 2, "text": printed, "truncated": True, "at": 990.0}
    assert http.get("/v1/tasks/a/log").json() == expected
    for problem, status in ((CorruptValue("not JSON"), 404), (TallyError("etcd does not answer"), 503)):
        view.logs["a"] = problem
        assert str(problem) in assert_problem(http.get("/v1/tasks/a/log"), status)["detail"]


def test_a_store_that_hangs_holds_up_no_other_answer(
    server: StatusServer, http: httpx.Client, view: ModelView
) -> None:
    """Many ask for kept logs, of which none comes: the rest of the endpoint answers, and so do those
    beyond the limit.
    """
    view.submit("a")
    hangs = threading.Event()

    def hang(_: str) -> None:
        hangs.wait(60)

    server._api.store._kept_log = hang
    with ThreadPoolExecutor(MAX_ASKED) as asking:
        waiting = [asking.submit(http.get, "/v1/tasks/a/log") for _ in range(MAX_ASKED)]
        wait_until(lambda: server._api.store._asked == MAX_ASKED, "all who ask")
        assert http.get("/v1/tasks/a").status_code == 200
        assert http.get("/v1/summary").status_code == 200
        assert "Retry-After" in http.get("/v1/tasks/a/log").headers
        hangs.set()
        assert {answer.result().status_code for answer in waiting} == {404}


# -- the server
# ------------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_named(server: StatusServer, view: ModelView) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(StatusAddressUnavailable, match=rf"127.0.0.1:{port}.*--status"):
        StatusServer(view, "127.0.0.1", port).start()


def test_stop_ends_the_threads_and_can_be_repeated(view: ModelView) -> None:
    before = set(threading.enumerate())
    server = StatusServer(view)
    server.start()
    assert httpx.get(f"{server.url}/v1/tasks", trust_env=False).status_code == 200
    server.stop()
    server.stop()
    assert view.listeners == []
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of all threads")
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_an_oversize_head_is_refused(server: StatusServer, http: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20.0) as endless:
        endless.sendall(b"GET /v1/tasks HTTP/1.1\r\nX-Filler: " + b"x" * (MAX_HEAD_BYTES + 1))
        assert endless.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert http.get("/livez").status_code == 200


def test_a_client_that_never_ends_its_request_is_cut(
    server: StatusServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.endpoint.connections.REQUEST_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20.0) as slow:
        slow.sendall(b"GET /v1/tasks HTTP/1.1\r\n")
        # cut is as good as closed in order; waiting for ever is not
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(4096) == b""
    assert http.get("/livez").status_code == 200
