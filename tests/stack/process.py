"""Child processes that end with their parent, and free ports."""

import ctypes
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ports() -> Iterator[int]:
    """Ports that the kernel gives to no outgoing connection: under load, one of those would be taken between the choice
    and the bind. From anywhere, for runs beside each other; none twice before all were given."""
    low, high = 32768, 60999
    if (limits := Path("/proc/sys/net/ipv4/ip_local_port_range")).exists():
        low, high = map(int, limits.read_text().split())
    # Istio's own stand between 15000 and 15100.
    ports = [port for port in range(10240, 65536) if not (low <= port <= high or 15000 <= port <= 15100)]
    if not ports:
        raise RuntimeError(f"all ports are ephemeral ({low} to {high}): none is left to listen on")
    at = random.SystemRandom().randrange(len(ports))
    return itertools.cycle(ports[at:] + ports[:at])


_next_port = _ports()


def _bindable(port: int) -> bool:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that was free a moment ago, on loopback."""
    return next(filter(_bindable, _next_port))


def wait_for(what: str, check: Callable[[], object], timeout: float = 20.0, every: float = 0.02):
    """Calls `check` until it gives something true, and returns that. Errors of a thing not yet there are waited out."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if result := check():
                return result
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(every)
    raise TimeoutError(f"waited {timeout:.0f} s for {what}" + (f": {last}" if last else ""))


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Memory of a process that is resident."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


class Process:
    """A child process with its output in a file. Ended by pid, also when the parent dies."""

    def __init__(self, name: str, command: list, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None):
        self.name, self.cwd = name, cwd
        self.command = [str(part) for part in command]
        self.log_path = log
        self.env = {**os.environ, **(env or {})}
        self.child: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
                cwd=self.cwd,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def require(self) -> None:
        """Raises what it said last, where it ended. Not an error that `wait_for` waits out."""
        if not self.alive():
            raise RuntimeError(f"{self.name} ended:\n{self.log()[-3000:]}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            self.child.send_signal(number)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.child.wait(10)

    def stop(self, patience_s: float = 5) -> None:
        """Asks it to end, then insists."""
        if not self.alive():
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.child.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        self.stop()
        self.start()
