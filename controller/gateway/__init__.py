"""The gateway: Tally for people who have no credentials of etcd."""

from controller.errors import need_extra

need_extra("a gateway", "gateway", "jwt", "cachetools")
