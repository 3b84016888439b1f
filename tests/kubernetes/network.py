"""A network of its own for this process and all that it starts: a user and a network namespace, without root.

EndpointSlices refuse loopback addresses. In here a whole range of others is local, so that each simulated pod can
have an address of its own and all can listen on one port, as on a cluster.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

# Of the range that RFC 6598 keeps for carriers: no host's own.
API_SERVER = "100.64.0.1"
_RANGE = "100.64.0.1/16"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class NotPermitted(Exception):
    """Says why there is no namespace."""


def pod_address(number: int) -> str:
    return f"100.64.{1 + number // 250}.{1 + number % 250}"


def enter() -> None:
    """Moves this process there, for good."""
    if not (ip := shutil.which("ip")):
        raise NotPermitted("`ip` (iproute2) is not there")
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise NotPermitted(f"unshare of user and network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        for command in (["link", "set", "lo", "up"], ["addr", "add", _RANGE, "dev", "lo"]):
            subprocess.run([ip, *command], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPermitted(f"network namespace: {getattr(error, 'stderr', None) or error}") from error
