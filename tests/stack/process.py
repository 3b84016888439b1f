"""Child processes that end with their parent, and free ports."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """A port that was free a moment ago, on loopback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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
