"""Searches for the best learning rate: one task for each rate, as many at a time as the pool has room for.

    pip install 'tally-controller[executor]'
    python search.py /shared/calls

The folder (or a URL that fsspec knows, such as s3://bucket/calls) is where calls and results are kept.
"""

import random
import sys

from controller.client import connect
from controller.executor import TallyExecutor


def train(rate: float, epochs: int = 200) -> tuple[float, float]:
    """Fit a line to noisy points; returns the loss and the rate."""
    noise = random.Random(7)
    points = [(x / 50, 3 * x / 50 + 1 + noise.gauss(0, 0.1)) for x in range(100)]
    slope = intercept = 0.0
    for _ in range(epochs):
        errors = [(slope * x + intercept - y, x) for x, y in points]
        slope -= rate * sum(error * x for error, x in errors) / len(points)
        intercept -= rate * sum(error for error, _ in errors) / len(points)
    return sum((slope * x + intercept - y) ** 2 for x, y in points) / len(points), rate


if __name__ == "__main__":
    rates = [0.001 * 2**n for n in range(10)]
    folder = sys.argv[1] if len(sys.argv) > 1 else "/tmp/tally-calls"
    with TallyExecutor(connect(), folder=folder, resources={"cpu": "500m"}) as executor:
        loss, rate = min(executor.map(train, rates))
    print(f"the best of {len(rates)} rates is {rate:g}, with a loss of {loss:.5f}")
