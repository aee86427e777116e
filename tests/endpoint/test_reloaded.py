"""A value of a file that changes, whatever becomes of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.endpoint.reloaded import reloaded_file
from controller.errors import InvalidField


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InvalidField("rules", "is missing"), "rules: is missing"),
        (RecursionError(), "RecursionError"),
        (KeyError("secret"), "KeyError"),
    ],
)
def test_whatever_a_new_file_raises_is_its_own_error(tmp_path: Path, error: Exception, says: str) -> None:
    """Else it would end whoever looks, and the next look would answer with what was said of another file."""

    def parse(text: str) -> str:
        if text == "other":
            raise InvalidField("", "another file")
        if text == "unusable":
            raise error
        return text

    file = tmp_path / "file"
    file.write_text("used")
    reloaded = reloaded_file(file, "some_file", parse, lambda before: before)
    file.write_text("other")
    assert (reloaded.current(), "another file" in reloaded.error) == ("used", True)
    file.write_text("unusable")
    for _ in range(2):
        assert reloaded.current() == "used"
        assert says in reloaded.error
        assert "another file" not in reloaded.error
        assert "secret" not in reloaded.error
    file.write_text("again")
    assert (reloaded.current(), reloaded.error) == ("again", "")
