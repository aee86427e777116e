"""Sentences about one's own task do not name tasks of others."""

from __future__ import annotations

from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.gateway.veil import MessageVeil, veiled
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As
from tests.gateway.test_gateway import task

OWN = {"mine", "also"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("; the head, hid-b, asks for cpu 2", "; the head, a task of another owner, asks for cpu 2"),
        ("; the head, mine, asks for cpu 2", "; the head, mine, asks for cpu 2"),
        ("1 task (hid) is ahead", "1 task (of other owners) is ahead"),
        ("3 tasks (mine, hid, also) are ahead", "3 tasks (mine, also, of other owners) are ahead"),
        ("4 tasks (mine, also, hid and 1 more)", "4 tasks (mine, also, of other owners and 1 more)"),
        ("3 tasks (mine, also and 1 more)", "3 tasks (mine, also and 1 more)"),
        ("2 tasks (mine, also) are ahead", "2 tasks (mine, also) are ahead"),
        (
            "waits for 2 tasks to end: hid (Running), mine (Created)",
            "waits for 2 tasks to end: hid (of another owner), mine (Created)",
        ),
        ("resources go to hid of owner nlp, by", "resources go to a task of another owner, by"),
        ("its resources go to also of owner vision, by", "its resources go to also of owner vision, by"),
        ("owner nlp comes first, and owner vision then", "another owner comes first, and owner vision then"),
        ("comes after 1 owner (nlp 0.0270) by guarantees", "comes after 1 owner (not told) by guarantees"),
        ("comes after 2 owners (vision 0.02, nlp 0.03) by", "comes after 2 owners (not told) by"),
        ("comes after 1 owner (vision 0.02) by", "comes after 1 owner (vision 0.02) by"),
        ("comes after 1 owner (nlp beyond all) by", "comes after 1 owner (not told) by"),
        ("comes after 1 owner (vision beyond all) by", "comes after 1 owner (vision beyond all) by"),
        ("comes after 1 owner (vision some) by", "comes after 1 owner (not told) by"),
        (
            "comes after 4 owners (vision 0, within its guarantee, vision 2e-05 and 2 more) by",
            "comes after 4 owners (vision 0, within its guarantee, vision 2e-05 and 2 more) by",
        ),
        ("its owner is at its limit (cpu 2)", "its owner is at its limit (cpu 2)"),
    ],
)  # fmt: skip
def test_names_of_others_are_left_out(text: str, told: str) -> None:
    assert veiled(text, OWN.__contains__, "vision".__eq__, {"nlp", "vision"}) == told


def test_notes_on_what_was_used_name_no_others(as_: As, put_raw: PutRaw) -> None:
    """Nor does a day that cannot be read."""
    pool = {"name": "shared", "capacity": {"cpu": 1}, "sharing": {}}
    assert as_("ops").put("/v1/pools/shared", json=pool).status_code < 300
    for owner in ("speech", "vision"):
        put_raw(f"shares/shared/{owner}", b"not json")
    notes = {name: " ".join(as_(name).get("/v1/usage").json()["notes"]) for name in ("alice", "watcher")}
    assert "share of vision" in notes["alice"]
    assert "speech" not in notes["alice"]
    assert "share of speech" in notes["watcher"]
    put_raw("usage/2020-01-01/shared", b'{"version":1,"at":5,"used":{"speech":{"cpu":"-1"}}}')
    told = {name: as_(name).get("/v1/usage?since=2021-01-01") for name in ("alice", "watcher")}
    assert "speech" not in told["alice"].text
    assert "speech" in told["watcher"].text


VEIL = MessageVeil({"hid": "nlp", "mine": "vision"}.get, "vision".__eq__)


def test_messages_of_a_history() -> None:
    """Wherever one stands."""
    stopped = "its resources go to hid of owner nlp, by reclaim"
    steps: list[dict[str, Any]] = [{"message": stopped}, {"message": "x"}]
    document = {"message": stopped, "status": {"message": stopped, "history": steps}}
    VEIL.document(document)
    assert "hid" not in repr(document)
    VEIL.document({"message": None, "status": None})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "it was to run after the success of mine, which is Failed, hid, which is Cancelled and 2 more",
            "it was to run after the success of mine, which is Failed, hid (of another owner) and 2 more",
        ),
        (
            "it was to run only after the failure of gone, which is Succeeded",
            "it was to run only after the failure of gone",
        ),
        ("the engine's words: hid, which is Failed", "the engine's words: hid, which is Failed"),
    ],
)
def test_messages_do_not_tell_the_states_of_others(text: str, told: str) -> None:
    assert VEIL.message(text) == told


@pytest.mark.parametrize(
    "message",
    [
        "it was to run after the success of secret-one, which is Cancelled",
        "its resources go to secret-one of owner speech, by reclaim",
    ],
)
def test_every_way_to_read_a_message_is_veiled(
    as_: As, client: Client, put_status: PutStatus, message: str
) -> None:
    """The task, lists, watches, waits and events; who may read all is told all."""
    client.submit(task("secret-one", owner="speech"))
    client.submit(task("mine"))
    after = client.get("secret-one").create_revision
    last = put_status("mine", State.FAILED, owner="vision", reason="DependencyFailed", message=message)

    def told(who: str) -> list[str]:
        caller = as_(who)
        seen = {"min_revision": last, "wait": 5}
        texts = [caller.get(f"/v1/tasks{path}", params=seen).text for path in ("", "/mine", ":page?limit=9")]
        texts.append(caller.post("/v1/tasks:wait", json={"ids": ["mine"], "since": 0}).text)
        with caller.stream("GET", "/v1/tasks:watch", params=seen) as watch:
            texts.append(next(watch.iter_lines()))
        with caller.stream("GET", "/v1/events", params={"after": after}) as events:
            texts.append(next(line for line in events.iter_lines() if '"mine"' in line and "message" in line))
        return texts

    for text in told("alice"):
        assert '"mine"' in text
        assert "Cancelled" not in text
        assert "speech" not in text
    assert all(message in text for text in told("watcher"))


def test_explain_names_no_task_of_others(as_: As, client: Client) -> None:
    """That one is ahead is told; who may read it learns which."""
    client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
    for name, owner in (("secret-head", "speech"), ("mine", "vision")):
        client.submit(task(name, owner=owner, resources={"cpu": 1}))
    revision = {"min_revision": client.get("mine").create_revision, "wait": 5}
    told = as_("alice").get("/v1/tasks/mine/explain", params=revision).json()["text"]
    assert "1 task (of other owners) is ahead" in told
    assert "secret-head" in as_("watcher").get("/v1/tasks/mine/explain", params=revision).json()["text"]
