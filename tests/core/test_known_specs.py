"""Specs that are known by their texts: nothing that a store may hold is decoded otherwise than as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.core.model import codec, known_specs
from controller.core.model.op import Op
from controller.core.model.task import StoredSpec
from controller.core.model.validation import parse_spec
from controller.errors import CorruptValue
from tests.support.examples import examples

# Fields as any client may have written them: twice, escaped, nested, of other versions, or not closed.
PIECES = [
    '"command":["true"]',
    '"command":["a"]',
    '"image":"x"',
    '"id":"a"',
    '"id":"b"',
    '"\\u0069d":"a"',
    '"i\\u0064" : "b"',
    '"after":[{"task":"a"}]',
    '"after":["b"]',
    '"array":{"size":2}',
    '"labels":{"id":"a"}',
    '"labels":{"a":"\\"id\\""}',
    '"env":{"A":",\\"version\\":1,\\"submitted_at\\":5,\\"op\\":\\"x\\"}"}',
    '"pod_template":{"spec":{"a":{"version":1,"submitted_at":7,"op":"x"}}}',
    '"pod_template":{"spec":{"a":{"b":1',
    '"version":1',
    '"version":2',
    '"submitted_at":7',
    '"submitted_at":-1',
    '"submitted_at":true',
    '"submitted_at":1e300',
    '"op":"y"',
    '"op":5',
    '"filled_in":["cpu"]',
    '"resources":{"cpu":"500m"}',
    '"priority":true',
    '"surprise":1',
    '"owner":null',
    '"pool":"P"',
    '"image":"\udcff"',
]
ENDS = [
    ',"version":1,"submitted_at":5.5,"op":"o"}',
    ',"version":1,"submitted_at":5.5,"op":"o","filled_in":["cpu"]}',
    ',"version":1,"submitted_at":5,"op":"o"}}}}',
    ',"version":1,"submitted_at":5,"op":"o","command":["b"]}',
    ',"version":1,"submitted_at":5,"op":"o"} ',
    ',"version":2,"submitted_at":5,"op":"o"}',
    "}",
    "",
]
NAMES = ["a", "b", "c-1", "A", 'a"', "x" * 53, "x" * 64, ""]
contents = st.lists(st.sampled_from(PIECES), max_size=4).map(",".join)


def told(decode: Callable[[str, bytes], StoredSpec], name: str, text: str) -> Any:
    data = ('{"id":"' + name + '",' + text).encode(errors="surrogateescape")
    try:
        return decode(name, data)
    except CorruptValue as error:
        return str(error)


@settings(max_examples=examples(400), deadline=None)
@given(
    content=contents,
    ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=2),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
)
@example(content='"\\u0069d":"a","command":["true"]', ends=ENDS[:1], names=["a", "b"])
@example(content='"command":["true"],"id":"a"', ends=ENDS[:1], names=["a", "b"])
@example(content='"command":["true"],"after":["b"]', ends=ENDS[:1], names=["a", "b"])
@example(content='"command":["true"],"array":{"size":2}', ends=ENDS[:1], names=["a", "x" * 52])
@example(content='"command":["true"]', ends=ENDS[:1], names=["a", "x" * 53])
@example(content='"command":["true"]', ends=[ENDS[3], ENDS[0]], names=["a", "b"])
@example(content='"image":"x","pod_template":{"spec":{"a":{"b":1', ends=[ENDS[2], ENDS[0]], names=["a", "b"])
def test_what_was_decoded_before_changes_nothing(content: str, ends: list[str], names: list[str]) -> None:
    codec._known._specs.clear()
    for end in ends:
        for name in names:
            text = content + end
            assert told(codec.decode_spec, name, text) == told(codec.decode_whole_spec, name, text)


def test_specs_of_one_content_share_it() -> None:
    said: dict[str, Any] = {"command": ["sh", "-c", 'echo "hello"'], "labels": {"a": "b"}}
    stored = [
        codec.decode_spec(name, codec.encode_spec(parse_spec({"id": name, **said}), at, Op(name), filled))
        for name, at, filled in (("one", 5.0, None), ("two", 6.5, ["cpu"]))
    ]
    assert [(each.spec.id, each.submitted_at, each.error) for each in stored] == [
        ("one", 5.0, ""),
        ("two", 6.5, ""),
    ]
    one, two = (each.spec for each in stored)
    assert one.command == ("sh", "-c", 'echo "hello"')
    assert one.command is two.command
    assert one.labels is two.labels


def test_no_more_are_known_than_fit() -> None:
    known = known_specs.KnownSpecs()
    specs = [parse_spec({"id": f"t{n}", "command": [str(n)]}) for n in range(known_specs.MOST_KNOWN + 1)]
    for number, spec in enumerate(specs):
        known.note(b"%d" % number, spec)
    assert known.get(b"0") is None
    assert known.get(b"%d" % known_specs.MOST_KNOWN) == specs[-1]
    long = codec.encode_spec(parse_spec({"id": "t", "command": ["x" * 5000]}), 1.0, Op("o"))
    assert known_specs.split("t", long) is None


@pytest.mark.parametrize("name", ["t", "x" * 52])
def test_the_form_that_is_stored_is_split(name: str) -> None:
    """A change of the form would make all this dead."""
    spec = parse_spec({"id": name, "command": ["true"], "owner": "o", "priority": 3, "env": {"A": "\u00e9"}})
    text = known_specs.split(name, codec.encode_spec(spec, 3.5, Op("op"), ["cpu"]))
    assert text is not None
    assert text.submitted_at == 3.5
    assert b'"owner":"o"' in text.content
