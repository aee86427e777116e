"""What a page tells its reader to type, run as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def typed(page: str, heading: str) -> list[str]:
    """The lines of the first block below this heading, without their remarks."""
    section = (ROOT / page).read_text().split(f"## {heading}")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]


def clone_in(folder: Path) -> Path:
    """What `make install` in a fresh clone leaves, as far as such lines need it."""
    shutil.copytree(ROOT / "deploy" / "examples", folder / "deploy" / "examples")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run_there(clone: Path, script: str) -> str:
    """What it prints; it must succeed, and tell of no error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=clone,
        env={**environment, "HOME": str(clone)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    assert "rror" not in done.stderr, f"{script}: {done.stderr}"
    return done.stdout
