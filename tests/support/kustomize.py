"""The deployment's overlays, rendered by kubectl from a copy of `deploy/`, with certificates where an
overlay wants them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
TRY_OUT = "kubernetes/overlays/try-out"
OVERLAYS = ("kubernetes/overlays/production", TRY_OUT)
LOWEST_KUSTOMIZE = 5
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator."""

Object = dict[str, Any]


def copy_of_deploy(folder: Path) -> Path:
    """A copy of `deploy/` below `folder`, with the try-out overlay's certificates made by its own script."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which the try-out overlay's script uses, is not installed")
    copy = folder / "deploy"
    shutil.copytree(DEPLOY, copy)
    subprocess.run([copy / TRY_OUT / "certificates.sh"], check=True, capture_output=True)
    return copy


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization. Skips without a kubectl that knows components and labels."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    version = json.loads(
        subprocess.run(
            ["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=True
        ).stdout
    )
    if int(version.get("kustomizeVersion", "v0").lstrip("v").split(".")[0]) < LOWEST_KUSTOMIZE:
        pytest.skip(f"this kubectl's kustomize is older than {LOWEST_KUSTOMIZE}")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns"
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def only(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def parts_of(objects: list[Object], name: str) -> list[Object]:
    """The objects of the API's own kinds whose names begin so."""
    named = [each for each in objects if each["metadata"]["name"].startswith(name)]
    return [each for each in named if each["kind"] not in CUSTOM]
