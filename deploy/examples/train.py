"""Fits a line to noisy points by gradient descent, and prints its progress.

Takes some seconds, and needs no library.
"""

import os
import random
import time

noise = random.Random(7)
points = [(x / 50, 3 * x / 50 + 1 + noise.gauss(0, 0.1)) for x in range(100)]
slope = intercept = 0.0
print(f"attempt {os.environ.get('TALLY_ATTEMPT', '-')} on {len(points)} points", flush=True)
for epoch in range(1, 201):
    errors = [(slope * x + intercept - y, x) for x, y in points]
    slope -= 0.2 * sum(error * x for error, x in errors) / len(points)
    intercept -= 0.2 * sum(error for error, _ in errors) / len(points)
    if epoch % 40 == 0:
        print(f"epoch {epoch}: loss {sum(error**2 for error, _ in errors) / len(points):.4f}", flush=True)
        time.sleep(1)
print(f"y = {slope:.2f} x + {intercept:.2f}", flush=True)
