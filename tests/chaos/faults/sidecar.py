"""A sidecar that is away, hangs, or comes late. Requests must not notice."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from stack.process import free_port
from stack.sidecar import Sidecar

from ..side import Side
from .fault import fault


@fault()
def sidecar_killed(side: Side) -> Iterator[None]:
    if side.sidecar:
        side.sidecar.process.kill()
    yield
    if side.sidecar:
        side.sidecar.process.start()
        side.sidecar.ready()


@fault()
def sidecar_stopped(side: Side) -> Iterator[None]:
    if side.sidecar:
        side.sidecar.process.signal(signal.SIGSTOP)
    yield
    if side.sidecar:
        side.sidecar.process.signal(signal.SIGCONT)


@fault()
def sidecar_slow(side: Side) -> Iterator[None]:
    """It runs a tenth of the time, 20 ms of each 200."""
    if not side.sidecar:
        yield
        return
    over = threading.Event()

    def starve() -> None:
        while not over.is_set():
            side.sidecar.process.signal(signal.SIGSTOP)
            over.wait(0.18)
            side.sidecar.process.signal(signal.SIGCONT)
            over.wait(0.02)

    thread = threading.Thread(target=starve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        side.sidecar.process.signal(signal.SIGCONT)


@fault()
def sidecar_restarted_twice(side: Side) -> Iterator[None]:
    if side.sidecar:
        side.sidecar.process.restart()
    yield
    if side.sidecar:
        side.sidecar.process.restart()
        side.sidecar.ready()


def _without(ends: ExitStack, plain: bool, folder: Path) -> dict:
    at = f"127.0.0.1:{free_port()}"
    return {"sidecar": False, "feed": lambda _: at}


@fault(options=_without)
def sidecar_absent_at_the_start(side: Side) -> Iterator[None]:
    yield
    if not side.plain:
        side.stack.sidecar = side.stack.add(
            Sidecar(side.folder, [pod.address for pod in side.pods], feed=side.envoy.feed)
        ).ready()
