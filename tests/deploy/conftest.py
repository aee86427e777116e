"""An older release of Tally, from the git history."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

RELEASE = "a9aa078"
"""The last one that knows no features."""


@pytest.fixture(scope="session")
def before_features(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a replica that runs that release."""
    root = Path(__file__).parents[2]
    git = ["git", "-C", str(root), "archive", RELEASE, "controller"]
    try:
        archive = subprocess.run(git, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the git history, which has the release {RELEASE}: {error}")
    folder = tmp_path_factory.mktemp("before-features")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
