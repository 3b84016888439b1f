"""One gateway with pods and clients of its own: with warmpath, or the same Envoy without it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from stack import paths
from stack.process import Process
from stack.stack import Stack

PLAIN = "none"
PODS = 4
# A pod that takes its time, so that streams are in flight when it breaks, and evicts nothing. A cold prompt costs little,
# so that both sides send about as much.
POD = {"step_ms": 8, "prefill_tokens_per_s": 100_000, "kv_tokens": 2_000_000}
# Ends of a stream that had begun.
CUT = ("stream cut off", "stream ended early")


@dataclass(frozen=True)
class Record:
    """What became of one request. Times in Unix seconds."""

    client: int
    n: int
    conversation: int
    turn: int
    stream: bool
    start: float
    end: float
    first: float | None
    status: int
    pod: str | None
    reason: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    failure: str | None


class Side:
    """Started when made. `options` are those of `Stack`."""

    def __init__(self, folder: Path, wiring: str, clients: int, timeout_s: float, **options):
        folder.mkdir(parents=True)
        self.folder, self.plain, self.options = folder, wiring == PLAIN, options
        self.breaks_filter = False
        """Whether the fault is that the filter breaks."""
        self.stack = Stack(folder, wiring, **{"pods": PODS, "pod_options": POD, "live": True, **options})
        self.records_file = folder / "records.jsonl"
        self.load: Process | None = None
        self.clients, self.timeout_s = clients, timeout_s
        self.lost: list[tuple[str, float]] = []
        """Caches that were lost, by address, and when."""
        self.killed: list[tuple[str, float]] = []
        """Pods that were killed, and when."""
        self.mended: float | None = None
        """When the fault was over, where that was before its time."""
        self.notes: dict[str, object] = {}
        """What else a fault found worth telling."""

    def begin(self) -> None:
        """The clients begin."""
        to = ["--url", self.stack.envoy.url, "--records", self.records_file]
        options = ["--clients", self.clients, "--timeout-s", self.timeout_s]
        self.load = Process("clients", [paths.BENCH, "clients", *to, *options], self.folder / "clients.log")

    @property
    def envoy(self):
        return self.stack.envoy

    @property
    def pods(self):
        return self.stack.pods

    @property
    def sidecar(self):
        return self.stack.sidecar

    def kill(self, *pods) -> None:
        for pod in pods:
            now = time.time()
            pod.process.kill()
            self.killed.append((pod.address, now))
            self.lost.append((pod.address, now))

    def records(self) -> list[Record]:
        """Stops sending, waits for what is in flight, and gives all that was sent."""
        self.load.stop(self.timeout_s + 5)
        return [Record(**json.loads(line)) for line in self.records_file.read_text().splitlines()]

    def is_cut(self, record: Record) -> bool:
        """Whether it was a stream that had begun on a pod when that was killed. No gateway can repeat it."""
        begun = record.status == 200 and record.failure in CUT
        return begun and any(record.pod == pod and record.start <= at <= record.end + 0.5 for pod, at in self.killed)

    def stop(self) -> None:
        if self.load:
            self.load.kill()
        self.stack.stop()
