"""Fixtures of this folder."""

from tests.support.fake_cluster import fake_cluster, fake_clusters

__all__ = ["fake_cluster", "fake_clusters"]
