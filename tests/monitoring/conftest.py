"""One gateway under load with Prometheus beside it, for all tests that only look.

Tests that change something start a small stack of their own.
"""

import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from stack.client import Client  # noqa: E402
from stack.load import Recorded  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.stack import Stack  # noqa: E402

from prometheus import Prometheus, watched  # noqa: E402

PODS = {"model": "Qwen/Qwen3-32B", "kv_tokens": 26_000}


class Load:
    """The recorded workload, again and again until it is stopped, slow enough that it never leaves a pause behind it.
    Beside it, prompts that nobody has cached: in the recorded ones the beginning is soon known everywhere."""

    def __init__(self, folder: Path, url: str):
        self.recorded = Recorded(folder, url, "--speed", "4")
        self.client = Client(url)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.new, daemon=True)
        self.thread.start()

    def new(self) -> None:
        while not self.over.wait(0.5):
            try:
                self.client.chat(uuid.uuid4().hex + " and then" * 300, model=PODS["model"], stream=True)
            except OSError:
                pass  # Late on a busy machine; the next one will do.

    def stop(self) -> None:
        self.over.set()
        self.recorded.stop()
        self.thread.join(20)


@pytest.fixture(scope="session")
def under_load(tmp_path_factory) -> Iterator[tuple[Stack, Prometheus]]:
    """A gateway, a sidecar and three pods under load, scraped long enough for every rate."""
    folder = tmp_path_factory.mktemp("load")
    with ExitStack() as ends:
        stack = ends.enter_context(Stack(folder, "buffered", pods=3, pod_options=PODS))
        # One more that is not there: its failed scrapes have a panel too.
        stack.sidecar.write([*(p.address for p in stack.pods), "127.0.0.1:1"])
        prometheus = watched(folder, stack)
        ends.callback(prometheus.stop)
        load = Load(folder, stack.envoy.url)
        ends.callback(load.stop)
        wait_for("a hundred streams", lambda: value(prometheus, "sum(warmpath_ttft_ms_count)") > 100, timeout=60, every=0.2)
        # Both kinds of prompts, and rules that build on one another: evaluated twice after that.
        needed = " and on () ".join(
            (
                "rate(warmpath_ttft_ms_count{prefix='cold'}[1m]) > 0",
                "warmpath:pods_hit_ratio:rate10m",
                "warmpath:ttft_ms:p90_rate10m",
                "warmpath_sidecar_scrape_errors_total",
            )
        )
        wait_for("rates of all kinds", lambda: prometheus.query(needed), timeout=60, every=0.2)
        yield stack, prometheus


@pytest.fixture(scope="session")
def prometheus(under_load) -> Prometheus:
    return under_load[1]


def value(prometheus: Prometheus, expr: str) -> float:
    return sum(v for _, v in prometheus.query(expr))
