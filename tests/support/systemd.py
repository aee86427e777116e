"""A systemd of the test's own, as process 1 of namespaces of its own, on a throw-away overlay of this
machine's root.

Nothing that runs in it reaches this machine: writes to files go to a layer in memory, /run, /tmp and /dev are
its own, its network is a loopback device, and of systemd's units it sees only those that a service needs to
be started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_UNITS = (
    "sysinit",
    "basic",
    "multi-user",
    "network-online",
    "shutdown",
    "sockets",
    "timers",
    "paths",
    "slices",
)
_BOOT = r"""
set -e
work=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for own in run tmp var/tmp var/log dev usr/lib/systemd/system etc/systemd/system; do
  mkdir -p "$root/$own"
  mount -t tmpfs -o mode=755 tmpfs "$root/$own"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
touch "$root/dev/kmsg"  # where systemd writes its log
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
if [ -d /sys/fs/cgroup/systemd ]; then
  mkdir "$root/sys/fs/cgroup/systemd"
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
else
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
for target in $2; do
  unit="$root/usr/lib/systemd/system/$target.target"
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" > "$unit"
done
shift 2
while [ $# -gt 0 ]; do  # from here: there, this machine's /tmp and /run are not to be seen
  mkdir -p "$root$1"
  mount --bind "$2" "$root$1"
  shift 2
done
ip link set lo up
mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
mount --make-rshared /  # as systemd does where it is not told that it is in a container
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
  /lib/systemd/systemd --system --unit=basic.target --log-target=kmsg --log-level=info --show-status=no
"""


class PrivateSystemd:
    """See the module's docstring."""

    def __init__(self, folder: Path, mounts: Mapping[str, Path]) -> None:
        self._folder = folder
        self._mounts = mounts
        self._group = Path(f"/sys/fs/cgroup/systemd/tally-test-{os.getpid()}")
        self._outer: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        """Boot, and wait until it takes orders.

        Raises AssertionError with what was said when it does not come up.
        """
        outer = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--uts",
            "--ipc",
            "--net",
            "--cgroup",
            "--kill-child",
        ]
        mounts = [str(part) for mount in self._mounts.items() for part in mount]
        with (self._folder / "boot.log").open("wb") as log:
            self._outer = subprocess.Popen(
                [*outer, "sh", "-c", _BOOT, "boot", str(self._folder), " ".join(_UNITS), *mounts],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._enter_group,
            )
        process = self._outer

        def child() -> int:
            said = (self._folder / "boot.log").read_text(errors="replace")
            assert process.poll() is None, f"no systemd: {said}"
            found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(found[0]) if found else 0

        self.pid = wait_until(child, "process 1")
        wait_until(
            lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"),
            "systemd",
        )

    def _enter_group(self) -> None:
        """In the child: a cgroup to be the root of its own."""
        if self._group.parent.is_dir():
            self._group.mkdir(exist_ok=True)
            (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command beside it, as root; it ends with it if it has not before."""
        enter = ["nsenter", "--target", str(self.pid), "--all"]
        return subprocess.run([*enter, *command], text=True, capture_output=True, check=False, timeout=120)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def path(self, inside: str) -> Path:
        """A file inside, as seen from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def log(self) -> str:
        """What systemd and its services said."""
        return self.path("/dev/kmsg").read_text(errors="replace")

    def close(self) -> None:
        """End it, and all that runs in it."""
        if self._outer is not None:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)  # process 1: the kernel ends all others with it
            self._outer.kill()
            self._outer.wait()
        for folder, _, _ in os.walk(self._group, topdown=False):
            wait_until(partial(_removed, Path(folder)), f"the end of {folder}")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


@contextmanager
def private_systemd(folder: Path, mounts: Mapping[str, Path]) -> Iterator[PrivateSystemd]:
    """A running one, which has these folders of ours under those paths; skips, with the reason, where
    there can be none.
    """
    if shutil.which("systemctl") is None or not Path("/lib/systemd/systemd").exists():
        pytest.skip("no systemd: it is not installed")
    if os.geteuid() != 0:
        pytest.skip("no systemd: only root can make the namespaces for one")
    systemd = PrivateSystemd(folder, mounts)
    try:
        try:
            systemd.start()
        except AssertionError as error:
            pytest.skip(f"no systemd: {error}")
        yield systemd
    finally:
        systemd.close()
