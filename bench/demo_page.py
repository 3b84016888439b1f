"""The page of `make demo KEEP=1`: a switch between round robin and warmpath on the running gateway, what came of each,
and the sidecar's live page in a frame. On loopback only.

The gateway keeps the plugin either way: `round robin` is `mode: shadow`, in which it counts, and Envoy balances.
"""

import json
import sys
import threading
import time
import urllib.request
from collections import OrderedDict, deque
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stack.envoy import Envoy  # noqa: E402
from stack.events import messages  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.sidecar import Pages  # noqa: E402

MODES = {"round robin": "shadow", "warmpath": "steer"}
# The filter's stat `mode`.
MODE_STATS = {"shadow": 1, "steer": 2}
PAGE = Path(__file__).with_name("demo_page.html")


class Switch:
    """Changes the plugin's mode while requests go on. The gateway must be `live`, with `fallback="round_robin"`."""

    def __init__(self, envoy: Envoy, config: dict):
        self.envoy, self.config = envoy, config
        self.policy = "warmpath"
        self.switched = 0

    def to(self, policy: str) -> None:
        """Returns once Envoy has taken it over."""
        mode = MODES[policy]
        self.switched += 1
        # VMs of a configuration that Envoy still drains would be used again, and would not notice: so each is another.
        config = json.dumps({"wiring": self.envoy.wiring, **self.config, "mode": mode}) + " " * self.switched
        self.envoy.write(config)
        wait_for(f"mode {mode}", lambda: self.envoy.stats()["mode"] == MODE_STATS[mode])
        self.policy = policy


class Figures:
    """What came of the requests of one policy since it was last switched to."""

    def __init__(self):
        self.since = time.time()
        self.requests = self.prompt_tokens = self.cached_tokens = 0
        self.ttft_ms: deque[float] = deque(maxlen=20_000)

    def quantile(self, q: float) -> float | None:
        sorted_ms = sorted(self.ttft_ms)
        return sorted_ms[min(len(sorted_ms) - 1, int(q * len(sorted_ms)))] if sorted_ms else None

    def shown(self) -> dict:
        return {
            "requests": self.requests,
            "hit_ratio": self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None,
            "ttft_p50_ms": self.quantile(0.5),
            "ttft_p90_ms": self.quantile(0.9),
        }


class Watch:
    """Follows the sidecar's /events. A request belongs to the policy under which it was decided, whenever it ends."""

    def __init__(self, sidecar: Pages):
        self.url = f"http://{sidecar.http}/events"
        self.lock = threading.Lock()
        self.figures = {policy: Figures() for policy in MODES}
        self.open: OrderedDict[str, Figures] = OrderedDict()
        threading.Thread(target=self._follow, daemon=True).start()

    def begin(self, policy: str) -> None:
        with self.lock:
            self.figures[policy] = Figures()

    def shown(self) -> dict:
        with self.lock:
            return {policy: figures.shown() for policy, figures in self.figures.items()}

    def _follow(self) -> None:
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=10) as stream:
                    self._read(stream)
            except (OSError, ValueError, HTTPException):
                time.sleep(0.5)  # The sidecar is away; there is nothing to be told of it by.

    def _read(self, stream) -> None:
        for name, data in messages(stream):
            if name == "requests":
                with self.lock:
                    for event in data:
                        self._take(event)

    def _take(self, event: dict) -> None:
        if event["event"] == "decided":
            self.open[event["id"]] = self.figures["warmpath" if event["steered"] else "round robin"]
            if len(self.open) > 20_000:
                self.open.popitem(last=False)
        figures = self.open.get(event.get("id", ""))
        if figures is None:
            return
        if event["event"] == "first_token":
            figures.ttft_ms.append(event["ttft_ms"])
        elif event["event"] == "done":
            del self.open[event["id"]]
            figures.requests += 1
            if "cached_tokens" in event and "prompt_tokens" in event:
                figures.prompt_tokens += event["prompt_tokens"]
                figures.cached_tokens += event["cached_tokens"]


class DemoPage:
    """The page's server."""

    def __init__(self, switch: Switch, sidecar: Pages):
        self.switch, self.sidecar = switch, sidecar
        self.watch = Watch(sidecar)
        self.switching = threading.Lock()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    self.answer(200, "text/html; charset=utf-8", PAGE.read_bytes())
                elif self.path == "/state":
                    self.json(200, page.state())
                else:
                    self.answer(404, "text/plain", b"not found\n")

            def do_POST(self) -> None:
                # Of JSON only: another site's page cannot send that here unasked.
                kind, size = self.headers.get("content-type", ""), int(self.headers.get("content-length") or 0)
                if self.path != "/switch" or kind != "application/json" or size > 1000:
                    return self.answer(400, "text/plain", b'POST /switch, application/json: {"to": "warmpath"}\n')
                try:
                    policy = json.loads(self.rfile.read(size))["to"]
                    page.to(policy)
                except (ValueError, KeyError, TypeError):
                    return self.answer(400, "text/plain", f"one of {', '.join(MODES)}\n".encode())
                return self.json(200, page.state())

            def json(self, status: int, value: dict) -> None:
                self.answer(status, "application/json", json.dumps(value).encode())

            def answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                for name, value in (("content-type", kind), ("content-length", len(body)), ("cache-control", "no-store")):
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def to(self, policy: str) -> None:
        with self.switching:
            if policy != self.switch.policy:
                self.switch.to(policy)
                self.watch.begin(policy)

    def state(self) -> dict:
        return {"policy": self.switch.policy, "figures": self.watch.shown(), "live": f"http://{self.sidecar.http}/"}

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
