"""The last hour, and the replicas that have ended, as the API tells them."""

from __future__ import annotations

import httpx

from controller.core.model.lifecycle import State
from controller.endpoint.minutes import Minutes
from controller.views.history import MINUTE, LastHour
from controller.views.replica import EndedRegistration
from tests.endpoint.model_view import ModelView, status_value
from tests.support.waiting import wait_until


def test_the_last_hour_counts_from_the_beginning(http: httpx.Client, view: ModelView) -> None:
    view.define_pool("default", cpu=1000)
    began = {"queued_at": 940.0, "admitted_at": 950.0, "owner": "film"}
    view.write(("states", ("a",), status_value(State.PENDING, **began)))
    view.submit("w")
    found = http.get("/v1/history").json()
    assert (found["now"], found["since"], found["missed_at"], found["left_out"]) == (1000.0, 1000.0, None, 0)
    assert found["minutes"] == [960.0]
    assert found["pools"]["default"] == {
        "queued": [1],
        "begun": [1],
        "ended": {"Succeeded": [0], "Failed": [0], "Cancelled": [0]},
        "waits": [{"owner": "film", "began": 1, "median": 10.0, "longest": 10.0}],
    }


def test_a_thread_looks_at_the_queues_when_a_minute_has_ended() -> None:
    """At the end of the minute, and not before; a look that fails does not end it."""
    view = ModelView()
    view.define_pool("default", cpu=1000)
    view.submit("w")
    hour = LastHour(view.reading, view.now)
    view.subscribe(hour)
    view.time = 20 * MINUTE - 0.05
    fails = [True]

    def now() -> float:
        view.time += 0.001
        return view.time

    def reading() -> object:
        if fails and view.time >= 20 * MINUTE:
            fails.clear()
            view.time = 21 * MINUTE - 0.05
            raise OSError("one failure")
        return view.reading()

    minutes = Minutes(hour, reading, now)  # type: ignore[arg-type]  # it fails once
    minutes.start()
    try:
        wait_until(lambda: not fails, "the first look, which fails")
        wait_until(lambda: hour.view(view.model).pools["default"].queued[:-1].count(1), "the next look")
    finally:
        minutes.close()


def test_replicas_that_have_ended_are_in_the_summary(http: httpx.Client, view: ModelView) -> None:
    record = {"phase": "leading", "version": 7, "host": "node-2"}
    view.ended = (EndedRegistration("replica-c", record, view.time - 9, view.time - 4),)
    assert http.get("/v1/summary").json()["ended"] == [
        {
            "id": "replica-c",
            "led": True,
            "heard_seconds": 9.0,
            "ended_seconds": 4.0,
            "version": "",
            "host": "node-2",
        }
    ]
