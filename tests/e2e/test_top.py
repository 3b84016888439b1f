"""`warmpath top` on a real terminal: starts, shows, ends, and leaves the terminal as it was."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from stack import paths
from stack.client import Client

ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>()][A-Z0-9]?)")


@pytest.fixture(scope="module")
def wiring() -> str:
    """One is enough: the sidecar shows the same."""
    return "buffered"


class Top:
    """`warmpath top` in a terminal of its own."""

    def __init__(self, url: str):
        self.master, slave = pty.openpty()
        self.width = 120
        self.resize()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        command = [paths.SIDECAR, "top", "--url", url]
        self.child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        self.written = ""

    def resize(self) -> None:
        """Makes it draw all anew."""
        self.width = 241 - self.width
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self.width, 0, 0))

    def read(self, seconds: float) -> str:
        text, until = "", time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.master], [], [], left)[0]:
                break
            text += os.read(self.master, 65536).decode(errors="replace")
        self.written += text
        return text

    def shows(self, *wanted: str, timeout: float = 15) -> None:
        """Waits for a screen with all that. It is drawn whole each time, as only what changed is written else."""
        until, screen = time.monotonic() + timeout, ""
        while time.monotonic() < until:
            self.resize()
            self.child.send_signal(signal.SIGWINCH)
            screen = ESCAPE.sub("", self.read(0.3))
            if all(word in screen for word in wanted):
                return
        raise AssertionError(f"no {wanted} in {timeout} s on\n{screen}")

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def ends(self) -> int:
        code = self.child.wait(5)
        self.read(0.2)
        return code

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(5)
        os.close(self.master)
        os.close(self.slave)

    def left_the_terminal_as_it_was(self) -> bool:
        """Cooked again, and back from the other screen with the cursor shown."""
        last = {name: self.written.rfind(code) for name, code in {"in": "\x1b[?1049h", "out": "\x1b[?1049l"}.items()}
        shown = self.written.rfind("\x1b[?25h") > self.written.rfind("\x1b[?25l")
        return termios.tcgetattr(self.slave) == self.before and last["out"] > last["in"] >= 0 and shown


@pytest.fixture
def top(stack) -> Iterator[Top]:
    top = Top(f"http://{stack.sidecar.http}")
    yield top
    top.stop()


def test_it_shows_pods_and_requests_and_ends_by_q(stack, top, fresh):
    client = Client(stack.envoy.url)
    text = fresh()
    for _ in range(3):
        client.chat(text, stream=True)
    top.shows("warmpath top", "plugin default steer 100 %", *(pod.address for pod in stack.pods), "ready", "pods: 3")
    home = client.chat(text, stream=True).pod
    top.shows("newest requests", "decided in the last hour", "warm", home, "done")
    top.type(b"q")
    assert top.ends() == 0
    assert top.left_the_terminal_as_it_was()


@pytest.mark.parametrize("how", ["control-c", "SIGTERM"])
def test_it_ends_by_control_c_and_by_a_signal(top, how):
    top.shows("pods: 3")
    if how == "SIGTERM":
        top.child.send_signal(signal.SIGTERM)
    else:
        top.type(b"\x03")
    assert top.ends() == 0
    assert top.left_the_terminal_as_it_was()


def test_a_sidecar_that_is_lost_is_said_and_found_again(start, wiring):
    stack = start.stack(wiring, pods=1)
    top = Top(stack.sidecar.http)
    try:
        top.shows(stack.pods[0].address)
        stack.sidecar.stop()
        top.shows("no word from the sidecar", "trying again", stack.pods[0].address)
        stack.sidecar.process.start()
        top.shows("table ", stack.pods[0].address)
        top.type(b"q")
        assert (top.ends(), top.left_the_terminal_as_it_was()) == (0, True)
    finally:
        top.stop()


def test_without_a_terminal_it_says_what_to_do(stack):
    command = [paths.SIDECAR, "top", "--url", f"http://{stack.sidecar.http}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10)
    assert (done.returncode, done.stdout) == (2, "") and "warmpath status" in done.stderr
