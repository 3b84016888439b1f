"""An OpenTelemetry collector: takes spans by OTLP over HTTP, and keeps them."""

import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .process import wait_for

PATH = "/v1/traces"


@dataclass(frozen=True)
class Span:
    """Ids in hex, attributes as text."""

    trace: str
    id: str
    parent: str
    state: str
    attributes: dict[str, str]


class Collector:
    """Started when made, on loopback unless told otherwise."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0):
        self.spans: list[Span] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802 - http.server's name
                collector.take(self.body())
                self.send_response(200 if self.path == PATH else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def body(self) -> bytes:
                if length := self.headers["content-length"]:
                    return self.rfile.read(int(length))
                # Envoy sends in chunks, which http.server leaves to us.
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((host, port), Handler)
        self.address = "{}:{}".format(*self.server.server_address)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        one.trace_id.hex(),
                        one.span_id.hex(),
                        one.parent_span_id.hex(),
                        one.trace_state,
                        {a.key: a.value.string_value for a in one.attributes},
                    )
                    for one in scope.spans
                ]

    def span(self, what: str, fits: Callable[[Span], bool]) -> Span:
        """The one that fits. Envoy sends spans after 5 s at the latest."""

        def found() -> list[Span]:
            return [span for span in list(self.spans) if fits(span)]

        (span,) = wait_for(what, found)
        return span

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
