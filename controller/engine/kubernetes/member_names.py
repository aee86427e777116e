"""The host names by which the members of an array find each other. Pure.

They are those of Kubernetes' own Indexed Jobs and JobSets: a pod's `hostname` is its member's name, the same
in each attempt, and with the headless Service that `subdomain` names, DNS knows it as
`<hostname>.<subdomain>`. Arrays have them that ask for it, by a `subdomain` in the pod template of their pool
or their own: without one, no name could be looked up, and pods are as they were.

What members are told is what programs ask for. The host of member 0 is torchrun's `--master-addr` and
PyTorch's MASTER_ADDR; the rest of these (a port, processes for each host) is the task's own to choose. MPI
wants a list of hosts: they are told as a pattern for printf, since the names of 10,000 members would not fit
into a variable, and would be in each of their pods. Names are short, as JobSet's: a pod's search path adds
the namespace, and the cluster's domain, which Tally does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from controller.core.model.arrays import INDEX, SIZE, MemberName
from controller.core.model.scalars import parse_name
from controller.core.model.task import Launch

HOSTS, LEADER = "TALLY_ARRAY_HOSTS", "TALLY_ARRAY_LEADER"


class HostNames(Struct, frozen=True, kw_only=True):
    """A member's own host name, the subdomain of its array, and the array's name."""

    hostname: str
    subdomain: str
    array: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the member: the pattern of all hosts, and the host of member 0."""
        return {
            HOSTS: f"{self.array}-i%d.{self.subdomain}",
            LEADER: f"{MemberName(self.array, 0)}.{self.subdomain}",
        }


def host_names(launch: Launch, spec: Mapping[str, Any]) -> HostNames | None:
    """The names of a member whose templates make this `spec`. None: it has none, or a `hostname` of its own.

    Raises InvalidField for a subdomain that is no DNS label.
    """
    member = MemberName.parse(launch.attempt.task_id)
    env, subdomain = launch.spec.env, spec.get("subdomain")
    # a task of its own may have such a name, too: only members have these variables
    is_member = member is not None and env.get(INDEX) == str(member.index) and SIZE in env
    if member is None or not is_member or not subdomain or spec.get("hostname"):
        return None
    own = launch.spec.pod_template.get("spec", {})
    path = "pod_template" if "subdomain" in own else "engine_options.pod_template"
    parse_name(subdomain, f"{path}.spec.subdomain", "the name of a headless Service")
    return HostNames(hostname=str(member), subdomain=subdomain, array=member.array)
