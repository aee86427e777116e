"""Tally: a task controller for Kubernetes. Every unit of resource is held once and released once."""

__version__ = "0.1.0"
