"""What the sidecar sends is spoilt on its way, and the VM that receives it is lost."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from stack import paths
from stack.process import wait_for

from ..side import Side
from ..wasm import trapping
from .fault import fault
from .feed_proxy import FeedProxy

# Of a table: `WPT`, then the format.
_FORMAT_AT = 3


def _proxied(ends: ExitStack, plain: bool, folder: Path) -> dict:
    if plain:
        return {}
    proxy = FeedProxy()
    ends.callback(proxy.stop)
    return {"feed": proxy.through}


def _proxy(side: Side) -> FeedProxy:
    return side.options["feed"].__self__


def _spoilt(name: str, spoil: Callable[[bytes], bytes]) -> None:
    def run(side: Side) -> Iterator[None]:
        if side.plain:
            yield
            return
        proxy = _proxy(side)
        before = side.envoy.stats()["table_errors"]
        proxy.spoil = spoil
        yield
        proxy.spoil = None
        side.notes["tables_refused"] = side.envoy.stats()["table_errors"] - before

    run.__name__ = name
    fault(options=_proxied)(run)


def _format(number: int) -> Callable[[bytes], bytes]:
    return lambda table: table[:_FORMAT_AT] + bytes([number]) + table[_FORMAT_AT + 1 :]


_spoilt("table_is_garbage", lambda table: os.urandom(len(table)))
_spoilt("table_is_truncated", lambda table: table[: len(table) // 2])
_spoilt("table_of_an_older_format", _format(0))
_spoilt("table_of_a_newer_format", _format(2))


def _mortal(ends: ExitStack, plain: bool, folder: Path) -> dict:
    """A filter that breaks when its stream ends with a trailer, which the sidecar never sends."""
    if plain:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mortal.wasm"
    file.write_bytes(trapping(paths.FILTER.read_bytes(), "proxy_on_grpc_receive_trailing_metadata"))
    return {**_proxied(ends, plain, folder), "filter_path": file}


@fault(options=_mortal)
def feed_leader_VM_lost(side: Side) -> Iterator[None]:  # noqa: N802 - as it is written
    """The VM that holds the stream traps. Another takes the lead, and Envoy makes a new one in its place."""
    side.breaks_filter = True
    if side.plain:
        yield
        return
    before = side.envoy.stats()["feed_leader"]
    _proxy(side).end_streams()
    wait_for("another leader", lambda: side.envoy.stats()["feed_leader"] > before)
    yield
