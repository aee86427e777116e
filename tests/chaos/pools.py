"""The pool that owners share in the chaos runs."""

from __future__ import annotations

from typing import Any


def shared_pool(cpu: int, limit: int) -> dict[str, Any]:
    """A pool of so many cpus, with preemption; an owner without a rule of its own has `limit` at most."""
    return {
        "name": "default",
        "capacity": {"cpu": cpu},
        "policy": "backfill",
        "sharing": {
            "half_life": "1m",
            "priority": "across-owners",
            "owners": {
                "vision": {"weight": 2, "guarantee": {"cpu": 2}},
                "speech": {"guarantee": {"cpu": 1}},
                "search": {},
                "*": {"limit": {"cpu": limit}},
            },
        },
        "preemption": {"reclaim": True, "by_priority": True, "min_run": 0, "per_minute": 40},
    }
