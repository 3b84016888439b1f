"""The gateway itself: its process, its configuration, its filter's build."""

import os
import time
from collections.abc import Iterator

from stack import paths
from stack.process import wait_for

from ..side import Side
from .fault import fault

_DEBUG = {"debug_headers": True}


@fault(recovers_s=10.0)
def gateway_restarted(side: Side) -> Iterator[None]:
    """Killed, and started at once. It is down until Envoy listens again: with a filter, that is compiled before."""
    side.envoy.process.kill()
    began = time.monotonic()
    side.envoy.process.start()
    wait_for("Envoy", side.envoy.ready, every=0.002)
    side.notes["down_ms"] = round((time.monotonic() - began) * 1000)
    side.mended = time.time()
    yield


def _updates(side: Side) -> int:
    return int(side.envoy.get("/stats?filter=^listener_manager.lds.update_success$").rpartition(": ")[2])


def change(side: Side, config: dict | None = None, wiring: str | None = None) -> None:
    """Writes a configuration and waits until Envoy has it. On the plain side, another name in the `server` header is
    a change of the same kind: a new listener, and the old one drains."""
    before = _updates(side)
    if side.plain:
        wiring = None
    side.envoy.manager = {"server_name": f"gateway-{time.monotonic_ns()}"}
    side.envoy.write(config if config is not None else _DEBUG, wiring)
    wait_for("Envoy to take it over", lambda: _updates(side) > before)


@fault()
def configuration_changed_live(side: Side) -> Iterator[None]:
    change(side, {**_DEBUG, "limits": {"choices": 2}})
    yield
    change(side)


@fault()
def wrong_configuration_live(side: Side) -> Iterator[None]:
    change(side, {**_DEBUG, "steer_percent": "all"})
    yield
    change(side)


@fault()
def wiring_changed_live(side: Side) -> Iterator[None]:
    """Buffered to streaming, or the other way, and back."""
    before = side.envoy.wiring
    other = {"buffered": "streaming", "streaming": "buffered"}.get(before)
    change(side, wiring=other)
    yield
    change(side, wiring=before)


@fault()
def filter_replaced_by_a_new_build(side: Side) -> Iterator[None]:
    """Twice: as the fault begins, and as it ends."""
    for number in range(2):
        if number:
            yield
        new_build(side)


def new_build(side: Side) -> None:
    """Puts a filter in place of the one before that Envoy takes for another program, and compiles."""
    if not side.plain:
        side.envoy.filter_path = side.folder / f"build-{time.monotonic_ns()}.wasm"
        side.envoy.filter_path.write_bytes(_other_build(paths.FILTER.read_bytes()))
    change(side)


def _other_build(wasm: bytes) -> bytes:
    """The same code with another custom section."""
    name, content = b"build", os.urandom(16)
    section = bytes([len(name)]) + name + content
    return wasm + bytes([0, len(section)]) + section
