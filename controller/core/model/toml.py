"""Text of TOML, which a person writes."""

from __future__ import annotations

import tomllib
from typing import Any

from controller.errors import InvalidField


def parse_toml(text: str) -> dict[str, Any]:
    """The table. Raises InvalidField, with no field, for all that `tomllib` can raise."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also of a number of more digits than Python reads
        raise InvalidField("", f"is not TOML: {error}") from None
    except RecursionError:
        raise InvalidField("", "is not TOML that can be read: it is nested too deeply") from None
