"""What the leader makes of deliveries: one transaction after another, each of which etcd takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import notices
from controller.core.model.model import Model
from controller.core.model.notify_rules import Ending
from controller.core.model.op import op_of
from controller.core.model.records import Change
from controller.core.planning.plan import Term
from controller.core.planning.planner import Planner
from controller.store.keys import Keys
from controller.store.limits import check_limits
from controller.store.records import DEFAULT_LIMITS, to_transaction

URL = "https://a.example/"
OP = op_of("r", 1, 1)
WORDS = st.sampled_from(("told", "given up", "again", "dropped", "open"))


def _notice(number: int, *, is_dead: bool) -> bytes:
    dead = notices.Dead(why={URL: "gone"}, at=float(number)) if is_dead else None
    notice = notices.EndNotice(
        task=f"t{number}",
        urls=(URL,),
        ending=Ending.FAILED,
        at=float(number),
        pool="p",
        owner="o",
        dead=dead,
    )
    return notices.encode_notice(notice, OP)


def _delivery(word: str) -> bytes:
    dead = {URL: "gave up"} if word == "given up" else {}
    delivery = notices.Delivery(at=100.0, by="notifier", dead=dead, again=word == "again")
    return notices.encode_delivery(delivery, OP)


@given(
    dead=st.lists(WORDS, min_size=2, max_size=6), fresh=st.lists(WORDS, max_size=6), most=st.integers(1, 4)
)
def test_all_deliveries_are_taken_up_and_few_dead_letters_are_kept(
    dead: list[str], fresh: list[str], most: int
) -> None:
    """Also where an admin tells the oldest dead letter again while another notice is given up."""
    model, changes = Model(), []
    for number, word in enumerate(dead + fresh):
        names, mod = (f"t{number}", notices.sequence_text(number)), 10 + 2 * number
        changes.append(Change(notices.OUTBOX, names, _notice(number, is_dead=number < len(dead)), mod, mod))
        if word != "open":
            changes.append(Change(notices.DELIVERED, names, _delivery(word), mod + 1, mod + 1))
    revision = 100
    model.load(changes, revision)
    planner = Planner(model, Term(5, 1, "r", "c", "i"), DEFAULT_LIMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices, "MAX_DEAD", most)
        while model.deliveries:
            plan = planner.plan(200.0)
            assert plan is not None
            check_limits(to_transaction(plan, Keys("c"), 5))
            revision += 1
            planner.committed(plan, revision)
    assert len(model.dead) <= max(most, len(dead))
