"""What all tests share: a stack for each wiring, started once a module, and ways to start more.

Prompts come from `fresh`, so that tests on one stack never meet each other's warmth and run in any order.
"""

import itertools
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stack.client import Client  # noqa: E402
from stack.envoy import Envoy, assert_sound  # noqa: E402
from stack.pods import Pod  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402
from stack.stack import Stack  # noqa: E402

WIRINGS = ("buffered", "streaming")
# Large enough that nothing is evicted while tests run.
ROOMY = {"instant": True, "kv_tokens": 2_000_000}


@pytest.fixture(scope="module", params=WIRINGS)
def wiring(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def stack(request, wiring: str, tmp_path_factory) -> Iterator[Stack]:
    """Three pods behind a gateway. A module changes it by `STACK = {…}`."""
    options = {"pod_options": ROOMY, **getattr(request.module, "STACK", {})}
    with Stack(tmp_path_factory.mktemp(wiring), wiring, **options) as running:
        yield running
        assert_sound(running.envoy)


@pytest.fixture
def client(stack: Stack) -> Client:
    return Client(stack.envoy.url)


@pytest.fixture
def fresh() -> Callable[..., str]:
    """Texts that nobody has sent before, of about that many words."""
    numbers = itertools.count()

    def text(words: int = 300) -> str:
        start = f"{uuid.uuid4().hex} {next(numbers)}"
        return start + " the quick brown fox jumps over the lazy dog again" * (words // 10)

    return text


class Start:
    """Starts parts that end with the test."""

    def __init__(self, folder: Path, ends: ExitStack):
        self.folder, self.ends = folder, ends
        self.numbers = itertools.count()

    def _folder(self) -> Path:
        folder = self.folder / str(next(self.numbers))
        folder.mkdir()
        return folder

    def _ending(self, part):
        self.ends.callback(part.stop)
        return part

    def _sound(self, envoy: Envoy) -> None:
        self.ends.callback(assert_sound, envoy)

    def background(self, ask: Callable, *args, **options) -> None:
        """Calls in a thread of its own. What comes of it, or does not, is of no interest."""

        def run() -> None:
            with suppress(OSError, HTTPException):
                ask(*args, **options)

        threading.Thread(target=run, daemon=True).start()

    def stack(self, wiring: str, **options) -> Stack:
        stack = self._ending(Stack(self._folder(), wiring, **{"pod_options": ROOMY, **options}))
        self._sound(stack.envoy)
        return stack

    def pod(self, **options) -> Pod:
        return self._ending(Pod(self._folder(), "pod", **{**ROOMY, **options})).ready()

    def envoy(self, wiring: str, pods: list[str], **options) -> Envoy:
        envoy = self._ending(Envoy(self._folder(), wiring, pods, **options))
        self._sound(envoy)
        return envoy

    def sidecar(self, pods: list[str], **options) -> Sidecar:
        return self._ending(Sidecar(self._folder(), pods, **options)).ready()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as ends:
        yield Start(tmp_path, ends)
