"""Lines of the log that are written together: none is lost, none is torn, and their order stays."""

from __future__ import annotations

import io
import threading
from contextlib import suppress

import pytest

from controller.lines import LineStream, together


class Raw(io.BytesIO):
    """Counts its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.flushed = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes.append(data)
        return len(data)

    def flush(self) -> None:
        self.flushed = len(self.writes)


def log(stream: LineStream, line: bytes) -> None:
    stream.write(line)
    stream.flush()


def test_each_line_is_written_at_once() -> None:
    raw = Raw()
    for line in (b"a\n", b"b\n"):
        log(LineStream(raw), line)
        assert raw.writes[-1] == line
        assert raw.flushed == len(raw.writes)


def test_together_they_are_one_write_at_the_end() -> None:
    raw = Raw()
    stream = LineStream(raw)
    with together():
        log(stream, b"a\n")
        with together():
            log(stream, b"b\n")
        assert not raw.writes
    assert raw.writes == [b"a\nb\n"]
    assert raw.flushed == 1
    log(stream, b"c\n")
    assert raw.writes == [b"a\nb\n", b"c\n"]


def test_what_was_logged_before_an_error_is_written() -> None:
    raw = Raw()
    with suppress(ZeroDivisionError), together():
        log(LineStream(raw), b"a\n")
        raise ZeroDivisionError
    assert raw.writes == [b"a\n"]
    log(LineStream(raw), b"b\n")
    assert raw.writes == [b"a\n", b"b\n"]


def test_each_stream_gets_its_own() -> None:
    one, other = Raw(), Raw()
    with together():
        for line in (b"1", b"2"):
            log(LineStream(one), b"one" + line)
            log(LineStream(other), b"other" + line)
    assert (one.writes, other.writes) == ([b"one1one2"], [b"other1other2"])


def test_other_threads_do_not_wait() -> None:
    raw = Raw()
    stream = LineStream(raw)
    with together():
        log(stream, b"kept\n")
        thread = threading.Thread(target=log, args=(stream, b"at once\n"))
        thread.start()
        thread.join(30)
        assert raw.writes == [b"at once\n"]
    assert raw.writes == [b"at once\n", b"kept\n"]


def test_a_write_that_fails_is_told_and_nothing_is_kept() -> None:
    class Broken(Raw):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError), together():
        log(LineStream(Broken()), b"a\n")
    raw = Raw()
    log(LineStream(raw), b"b\n")
    assert raw.writes == [b"b\n"]
