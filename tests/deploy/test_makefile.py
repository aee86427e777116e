"""`make` in whatever folder the clone stands; the tools that it calls here only say how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("folder", ["plain", "with a space", "with 'quotes' & $signs"])
def test_a_clone_may_stand_anywhere(tmp_path: Path, folder: str) -> None:
    """What was installed, and where, is uv's to say; that it is called at all, and for the right
    environment, is ours.
    """
    clone = tmp_path / folder
    clone.mkdir()
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, clone)
    program(clone / ".venv/bin/uv", 'echo "uv for $VIRTUAL_ENV: $*"')
    told = '[ -z "$PYTHONDONTWRITEBYTECODE" ] || echo "what is imported is compiled at each start"'
    program(clone / ".venv/bin/python", f'{told}; cd "{ROOT}" && exec "{sys.executable}" "$@"')
    program(clone / ".venv/bin/tally", 'echo "tally $*"')
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    } | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["make", "run"], cwd=clone, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        f"uv for {clone / '.venv'}: sync --quiet --frozen --all-extras --active --python .venv/bin/python",
        "tally dev",
    ]
