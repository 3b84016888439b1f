"""A gRPC proxy between Envoy's feed and the sidecar that can spoil what comes down."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

# Processes are started by fork and exec: what gRPC would do in between stalls them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

import grpc  # noqa: E402
from stack.process import free_port  # noqa: E402

_PATH = "/warmpath.feed.v1.Feed/Connect"
_TABLE = 0x0A
"""Field 1 of both `Down` and `Table` in proto/feed.proto, a length before it."""


class FeedProxy:
    """Started when made; `through` is what `Stack` takes as `feed`. `spoil` changes each table's bytes."""

    def __init__(self):
        self.spoil: Callable[[bytes], bytes] | None = None
        self.spoiled = 0
        self.sidecar = ""
        self.address = f"127.0.0.1:{free_port()}"
        self._dying = threading.Event()
        handler = grpc.method_handlers_generic_handler(
            "warmpath.feed.v1.Feed", {"Connect": grpc.stream_stream_rpc_method_handler(self._connect)}
        )
        self.server = grpc.server(ThreadPoolExecutor(16), handlers=[handler])
        self.server.add_insecure_port(self.address)
        self.server.start()

    def through(self, sidecar: str) -> str:
        self.sidecar = sidecar
        return self.address

    def end_streams(self) -> None:
        """Ends the streams that are open, with a trailer."""
        self._dying.set()
        self._dying = threading.Event()

    def stop(self) -> None:
        self.server.stop(0)

    def _connect(self, up: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        dying = self._dying
        with grpc.insecure_channel(self.sidecar) as channel:
            down = channel.stream_stream(_PATH)(up)
            threading.Thread(target=lambda: (dying.wait(), down.cancel()), daemon=True).start()
            try:
                for message in down:
                    yield self._passed(message)
            except grpc.RpcError:
                if dying.is_set():
                    context.set_trailing_metadata((("chaos", "over"),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "the stream to the sidecar ended")

    def _passed(self, message: bytes) -> bytes:
        if not self.spoil or message[:1] != bytes([_TABLE]):
            return message
        self.spoiled += 1
        _, inner = _delimited(message)
        _, table = _delimited(inner)
        return _field(_field(self.spoil(table)))


def _delimited(field: bytes) -> tuple[int, bytes]:
    """Tag and content of a field that is all there is."""
    length = shift = 0
    for at, byte in enumerate(field[1:], 1):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return field[0], field[at + 1 : at + 1 + length]
    raise ValueError("a field without an end")


def _field(content: bytes) -> bytes:
    length, varint = len(content), b""
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([_TABLE]) + varint + bytes([length]) + content
