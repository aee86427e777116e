"""Checks the promise on a live cluster.

The parts are `audit`, the leader's `own` audit, `repairs`, the `selftest`, and `adoption` of an engine.
"""
