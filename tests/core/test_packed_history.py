"""Histories in a small form: whatever the steps are, they come back byte for byte."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from controller.core.model import codec, packed_history
from controller.core.model.lifecycle import State
from controller.core.model.packed_history import MOST_BYTES, MOST_KNOWN, PackedHistory, pack
from controller.core.model.task import Status, Step
from tests.support.examples import examples

TEXTS = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda at, rest: b'{"at":' + at + rest, st.binary(max_size=8), st.binary(max_size=20)),
    st.builds(
        lambda at, why: bytes(codec.encode_step(Step(at=at, source="a", event="e", state="s", reason=why))),
        st.floats(0, 1e12),
        st.text(max_size=8),
    ),
)


def steps(*reasons: str, at: float = 1796016498.327) -> tuple[Raw, ...]:
    return tuple(
        codec.encode_step(Step(at=at + n, source="Running", event="noted", state="Running", reason=reason))
        for n, reason in enumerate(reasons)
    )


@settings(max_examples=examples(300), deadline=None)
@given(texts=st.lists(TEXTS, max_size=12), first=st.integers(-13, 13), last=st.integers(-13, 13))
@example(texts=[b'{"at":1}', b'{"at":1}'], first=0, last=1)
@example(texts=[b'{"at":', b'{"at":,', b'{"at":,,'], first=-1, last=3)
def test_any_steps_come_back_as_they_were(texts: list[bytes], first: int, last: int) -> None:
    history = [Raw(text) for text in texts]
    packed = pack(history)
    assert [bytes(step) for step in packed] == texts
    assert len(packed) == len(texts)
    assert [bytes(step) for step in packed[first:last]] == texts[first:last]
    assert packed == tuple(history)
    assert tuple(history) == packed
    assert bool(packed) == bool(texts)
    assert pack(packed) == packed
    if texts:
        assert bytes(packed[-1]) == texts[-1]
        assert packed != tuple(history[1:])


def test_equal_histories_share_all_but_their_times() -> None:
    one, two = pack(steps("a", "b")), pack(steps("a", "b", at=5.5))
    assert isinstance(one, PackedHistory)
    assert isinstance(two, PackedHistory)
    assert one != two
    assert one._ends is two._ends
    other = pack(steps("a", "c"))
    assert isinstance(other, PackedHistory)
    assert other._ends[0] is one._ends[0]


@pytest.mark.parametrize("odd", [b'{"term":1,"at":5}', b'{"at":5,"message":"' + b"x" * MOST_BYTES + b'"}'])
def test_an_odd_or_long_step_is_not_kept_for_others(odd: bytes) -> None:
    pack(steps("a"))
    before = packed_history._known_end.cache_info().currsize
    packed = pack([*steps("a"), Raw(odd)])
    assert isinstance(packed, tuple)
    assert bytes(packed[1]) == odd
    assert packed_history._known_end.cache_info().currsize == before


def test_no_more_are_known_than_fit() -> None:
    for number in range(MOST_KNOWN + 10):
        pack(steps(f"reason {number}", "b"))
    known = packed_history._known_end, packed_history._known_sequence
    assert [each.cache_info().currsize for each in known] == [MOST_KNOWN, MOST_KNOWN]
    misses = packed_history._known_sequence.cache_info().misses
    assert isinstance(pack(steps(*(["a"] * 9))), PackedHistory)
    assert packed_history._known_sequence.cache_info().misses == misses


def test_an_ended_status_is_stored_and_read_as_any_other() -> None:
    history = steps("a", "b", "c")
    status = Status(
        version=1, state=State.SUCCEEDED, attempt=1, finished_at=5.0, steps=3, epoch=2, history=history
    )
    stored = codec.encode_status(status, {})
    read, extras = codec.decode_status(stored)
    assert isinstance(read.history, PackedHistory)
    assert read == status
    assert codec.encode_status(read, extras) == stored
    assert codec.encode_status(read, {"later": 1}) == stored[:-1] + b',"later":1}'
    assert codec.decode_history(read) == codec.decode_history(status)
    assert [step.reason for step in codec.decode_new_steps(read.history[-2:])] == ["b", "c"]
    assert msgspec.structs.replace(read, history=(*read.history, *steps("d"))).history == (
        *history,
        *steps("d"),
    )
