"""vLLM pods that are nothing but a recorded metrics page."""

import http.server
import re
import threading
from pathlib import Path

COUNTS = re.compile(r"^(vllm:\w+?_(?:total|bucket|count|sum))(\{.*\})? (\S+)$")


class RecordedPod:
    """Serves a recorded page. Its counts grow by a tenth with each scrape: rates of standing ones are 0."""

    def __init__(self, page: Path):
        lines = [line for line in page.read_text().splitlines() if line]
        self.scrapes = 0
        pod = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802 - http.server's name
                pod.scrapes += 1
                text = "".join(pod.line(line) + "\n" for line in lines).encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def line(self, line: str) -> str:
        found = COUNTS.match(line)
        if not found:
            return line
        name, labels, value = found.groups()
        return f"{name}{labels or ''} {float(value) * (1 + self.scrapes / 10)}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
