"""Owners of shared pools, as the endpoint answers: /v1/owners, /v1/pools/{name}, and tasks by owner."""

from __future__ import annotations

import httpx

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.shares import Share, encode_share
from controller.core.model.sharing import OwnerPolicy, Sharing
from controller.core.model.task import Pool, Spec
from tests.endpoint.model_view import ModelView


def share_pool(view: ModelView, name: str, held: dict[str, int]) -> None:
    """A pool of 4 cpus of which `vision` holds this."""
    sharing = Sharing(owners={"vision": OwnerPolicy(weight=2, max_running=5)})
    pool = Pool(name=name, capacity=Vector({"cpu": 4000}), sharing=sharing)
    view.write(("pools", (name,), codec.encode_pool(pool, Op("op"))))
    used, lost = Vector({"cpu": 2**70}), Vector({"cpu": 2**69})
    share = Share(Vector(held), 1, used, at=round(view.time * 1000), lost=lost)
    view.write(("shares", (name, "vision"), encode_share(share, Op("op"))))


def test_owners_of_all_pools_or_of_one(view: ModelView, http: httpx.Client) -> None:
    """Use is told as text: it exceeds what JSON readers can count."""
    share_pool(view, "p", {"cpu": 2000})
    share_pool(view, "q", {})
    items = http.get("/v1/owners").json()["items"]
    assert [(owner["pool"], owner["owner"]) for owner in items] == [("p", "vision"), ("q", "vision")]
    assert http.get("/v1/owners", params={"pool": "p"}).json()["items"] == items[:1]
    assert items[0] == {
        "pool": "p",
        "owner": "vision",
        "weight": 2.0,
        "held": {"cpu": "2"},
        "guarantee": {},
        "limit": {},
        "max_running": 5,
        "max_queued": None,
        "part_held": 0.5,
        "share": 0.25,
        "running": 1,
        "waiting": 0,
        "on_hold": 0,
        "used": {"cpu": str(2**70)},
        "lost": {"cpu": str(2**69)},
        "stopping": {},
        "problem": "",
    }
    detail = http.get("/v1/pools/p").json()
    assert (detail["owners"], detail["shared"], detail["claims"]) == (items[:1], True, [])
    assert "owners" not in http.get("/v1/pools").json()["items"][0]


def test_a_share_beyond_all_numbers_is_null(view: ModelView, http: httpx.Client) -> None:
    """It holds something that the pool has no more; JSON has no infinity."""
    share_pool(view, "p", {"nvidia.com/gpu": 1})
    assert http.get("/v1/owners").json()["items"][0]["share"] is None
    assert http.get("/v1/summary").json()["pools"][0]["owners"][0]["share"] is None


def test_tasks_of_an_owner(view: ModelView, http: httpx.Client) -> None:
    """Also where the page is full of others'."""
    for n in range(5):
        owner = "vision" if n == 4 else "nlp"
        spec = Spec(id=f"t{n}", command=("true",), owner=owner)
        view.write(("tasks", (f"t{n}",), codec.encode_spec(spec, 10.0, Op("op"))))
    for owner, ids in (("vision", ["t4"]), ("nlp", ["t0", "t1", "t2", "t3"]), ("none", [])):
        answer = http.get("/v1/tasks", params={"owner": owner, "limit": "1", "sort": "name"}).json()
        assert [task["id"] for task in answer["items"]] == ids[:1]
        assert bool(answer["continue"]) is (len(ids) > 1)
        assert all(task["owner"] == owner for task in answer["items"])
    assert http.get("/v1/tasks", params={"owner": ""}).status_code == 400
