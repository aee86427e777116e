"""A whole cluster on one machine, for development and tests: replicas, etcd, a fake Kubernetes."""

from controller.errors import need_extra

need_extra("a cluster on this machine", "dev", "psutil", "cryptography")
