"""The gateway: Tally for people who have no etcd credentials. It never leads, and any number may run."""
