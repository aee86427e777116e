"""What `finding_copies` finds in a text, and that a copy without a row makes `test_copies` fail."""

from __future__ import annotations

import pytest

from tests.architecture.finding_copies import sources
from tests.architecture.test_copies import ROWS, all_named, complaint, find, found, is_named, unnamed

pytestmark = pytest.mark.xdist_group("copies")

SCRATCH = """
import functools
from collections import deque
from dataclasses import dataclass

from controller.store.base import Store

known = {}


@functools.cache
def looked_up(name): ...


@dataclass
class Outside:
    size: int | None = None


@dataclass(frozen=True)
class Value:
    size: int | None = None


class Watcher:
    def __init__(self, store: Store, first: dict) -> None:
        self._store = store
        self._first = dict(first)
        self._cache: dict[str, bytes] = {}
        self._ring = deque(maxlen=3) if first else None
        self._token = ""
        self._closed = False
        self._number = 0

    def follow(self) -> None:
        self._closed = True
        self._number += 1
        self._lock = threading.Lock()
        self._last, self._other = self._store.get("key", deadline=1.0)
        for batch in self._store.watch("prefix", after=0):
            self._cache[batch.key] = batch.value
        self._token = open("token").read()

    def hand_on(self) -> object:
        return self._store.load

    def watch(self, sink, stop: threading.Event) -> None:
        reported: dict[str, object] = {}
        empty = set()
        filters = {"type": "pod"}


class Shared:
    seen: dict[str, object] = {}
    __slots__ = ["a"]
    NAMES = {}

    def add(self, more: int) -> None:
        self.total += more
        self.count += 1


class Given(NamedTuple):
    extras: dict[str, object] = {}
"""


@pytest.mark.parametrize(
    ("text", "read", "held"),
    [
        (
            SCRATCH,
            {"get", "load", "open", "watch"},
            {
                "Outside.size",
                "Shared.seen",
                "Shared.total",
                "Watcher._cache",
                "Watcher._first",
                "Watcher._last",
                "Watcher._other",
                "Watcher._ring",
                "Watcher._token",
                "Watcher.watch.empty",
                "Watcher.watch.reported",
                "known",
                "looked_up",
            },
        ),
        (
            "class Seen:\n    last: int\ndef look(seen, now):\n    seen.last = now",
            set(),
            {"Seen.last"},
        ),
        ("LIMITS = {}\n__all__ = []", set(), set()),
        ("def f(names: dict) -> object:\n    return names.get('a')", set(), set()),
        ("def f(engine: Engine | None) -> object:\n    return engine.attempts", {"attempts"}, set()),
        ("os.open('a', os.O_RDONLY)", {"open"}, set()),
        ("Path('w').open()", {"open"}, set()),
        ("open('a', 'w'); os.open('a', os.O_WRONLY); Path('a').open('ab')", set(), set()),
        ("with requests.Session() as http:\n    http.get('u')", {"get"}, set()),
        ("import requests\nrequests.get('u')", {"get"}, set()),
        ("def f(requests: dict) -> object:\n    requests.get('u')", set(), set()),
        ("import subprocess\nsubprocess.run(['a'])", {"run"}, set()),
        ("def f(self):\n    self.run(['a'])", set(), set()),
        (
            "os.scandir('a'); p.iterdir(); p.glob('*'); p.rglob('*')",
            {"scandir", "iterdir", "glob", "rglob"},
            set(),
        ),
        ("def f(s: EtcdStore, m: 'MemoryStore'):\n    s.get('a'); m.load('a')", {"get", "load"}, set()),
        ("def f(it: Optional[Engine]):\n    it.find('a')", {"find"}, set()),
        ("def f(it: 'DockerEngine | None'):\n    it.stop('a')", {"stop"}, set()),
        (
            "def f(all: list[Engine]):\n    all[0].find('a')\n    [e.identity() for e in all]",
            {"find", "identity"},
            set(),
        ),
        ("def f(make: Callable[[], Engine]):\n    make.find('a')", set(), set()),
    ],
)
def test_the_finder_finds(text: str, read: set[str], held: set[str]) -> None:
    code = find({"scratch.py": text})
    assert code.read == {f"scratch.py ({call})" for call in read}
    assert code.kept == {f"scratch.py::{name}" for name in held}


def test_a_new_copy_fails() -> None:
    """A module without a row; and another read, and another cache, in a module that has one."""
    named = all_named()
    follower, mirror = "runtime/follower.py", "runtime/registrations.py"
    texts = {path: text for path, text in sources().items() if path in (follower, mirror)}
    before = set(unnamed(find(texts), named))
    texts["views/scratch.py"] = SCRATCH
    texts[follower] += "\n\ndef also(store: Store) -> object:\n    return store.get('key', deadline=1.0)\n"
    texts[mirror] += "\n\nclass Cache:\n    def __init__(self) -> None:\n        self._seen = {}\n"
    missing = set(unnamed(find(texts), named)) - before
    assert {"views/scratch.py (watch)", "views/scratch.py::Watcher._cache"} <= missing
    assert {place for place in missing if "scratch" not in place} == {
        f"{follower} (get)",
        f"{mirror}::Cache._seen",
    }


def test_a_copy_without_its_row_fails() -> None:
    """Each row is needed, except those whose places another row names, too."""
    code, needed = found(), 0
    before = set(unnamed(code, all_named()))
    for row in ROWS:
        others = {place for each in ROWS if each is not row for place in each.named()}
        its_alone = [place for place in code.kept | code.read if is_named(place, row.named())]
        its_alone = [place for place in its_alone if not is_named(place, others)]
        assert set(unnamed(code, others)) - before == set(its_alone), row.copy
        needed += bool(its_alone)
    assert needed > len(ROWS) * 0.9


def test_a_complaint_names_all() -> None:
    assert complaint(["b.py (get)", "a.py::A"], "are wrong.") == "\n  a.py::A\n  b.py (get)\nare wrong."


def test_the_page_s_scripts_are_looked_at() -> None:
    code = find({"page.js": "const a = await fetch(path); localStorage.setItem('a', a);"})
    assert code.read == {"page.js (fetch)", "page.js (localStorage)"}
