"""A whole cluster on one machine, for development and tests: replicas, etcd, a fake Kubernetes."""
