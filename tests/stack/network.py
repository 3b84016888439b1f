"""A network of its own for this process and all that it starts: a user and a network namespace, without root.

EndpointSlices refuse loopback addresses. In here a whole range of others is local, so that each simulated pod can
have an address of its own and all can listen on one port, as on a cluster. A pod whose containers meet on loopback,
such as a gateway with its sidecar, gets a network inside this one.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .process import Process, wait_for

# Of the range that RFC 6598 keeps for carriers: no host's own.
API_SERVER = "100.64.0.1"
_RANGE = "100.64.0.1/16"
# Of the pods that have a network of their own.
_OWN = "100.65.0.{}"
_BOTH = "100.64.0.0/15"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_entered = False


class NotPermitted(Exception):
    """Says why there is no namespace."""


def pod_address(number: int) -> str:
    return f"100.64.{1 + number // 250}.{1 + number % 250}"


def enter() -> None:
    """Moves this process there, for good."""
    global _entered
    if _entered:
        return
    if not (ip := shutil.which("ip")):
        raise NotPermitted("`ip` (iproute2) is not there")
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise NotPermitted(f"unshare of user and network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        for command in (["link", "set", "lo", "up"], ["addr", "add", _RANGE, "dev", "lo"]):
            subprocess.run([ip, *command], check=True, capture_output=True, text=True)
        # Pods with a network of their own reach each other.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPermitted(f"network namespace: {getattr(error, 'stderr', None) or error}") from error
    _entered = True


class PodNetwork:
    """A pod's network: an address that all in here reach, and a loopback of its own. It is there until `stop`."""

    def __init__(self, folder: Path, number: int):
        self.address = _OWN.format(number)
        self.holder = Process("network", ["unshare", "-n", "sleep", "infinity"], folder / "network.log")
        self.file = f"/proc/{self.holder.pid}/ns/net"
        wait_for("a network namespace", lambda: os.readlink(self.file) != os.readlink("/proc/self/ns/net"))
        here, there = f"pod{number}", "eth0"
        for command in (
            f"link add {here} type veth peer name {there} netns {self.holder.pid}",
            f"link set {here} up",
            f"route add {self.address}/32 dev {here} src {API_SERVER}",
        ):
            _run("ip", *command.split())
        for command in (
            "link set lo up",
            f"addr add {self.address}/32 dev {there}",
            f"link set {there} up",
            f"route add {API_SERVER} dev {there}",
            f"route add {_BOTH} via {API_SERVER} dev {there}",
        ):
            _run(*self.within(), "ip", *command.split())

    def within(self) -> list[str]:
        """What starts a command in this network."""
        return ["nsenter", f"--net={self.file}"]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in this network; sockets that it opens stay there."""
        with open("/proc/thread-self/ns/net") as back, open(self.file) as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(back.fileno())

    def stop(self) -> None:
        self.holder.kill()


def _setns(file: int) -> None:
    if _libc.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
