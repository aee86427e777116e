"""How many examples a property test looks at."""

from __future__ import annotations

import os

WHOLE = "TALLY_TEST_EXAMPLES"
"""`whole`, as `make test-full` sets it: all of them."""


def examples(whole: int) -> int:
    """A third of them, or all in a whole run. They are others at each run, so that many runs see many.

    So this is not for a test that is `derandomize`d, which sees the same ones at each run.
    """
    return whole if os.environ.get(WHOLE) == "whole" else -(-whole // 3)
