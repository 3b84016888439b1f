"""`make bench-gateway`: what a request costs in Envoy with warmpath's filter, beside Envoy without it.

Each set-up is an Envoy of its own with what belongs to it, all in front of the same simulated pods, which answer at once.
They are loaded by turns, one at a time, several rounds; figures are medians of the rounds. Load, Envoy and pods share the
machine's cores, so the figure to compare is CPU time a request, of Envoy and what it needs beside it (/proc). Requests a
second follow from it, and from what else runs here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import wasmtime

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from epp import PORT, Pool, enter  # noqa: E402
from gateway_report import (  # noqa: E402
    CPU,
    DIM,
    LATENCIES,
    PICKER,
    PLAIN,
    RESET,
    RPS,
    closed_table,
    open_file,
    open_table,
    options_table,
)
from stack import paths  # noqa: E402
from stack.client import Client  # noqa: E402
from stack.envoy import Envoy  # noqa: E402
from stack.pods import Pod  # noqa: E402
from stack.process import Process, wait_for  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402

SHARED = 0.8


@dataclass
class Setup:
    """What stands between clients and pods."""

    wiring: str
    config: dict = field(default_factory=dict)
    steers: bool = True
    """Whether equal prompts should be answered by one pod."""


SETUPS = {
    PLAIN: Setup("none", steers=False),
    "no-op filter": Setup("streaming", steers=False),
    "warmpath streaming": Setup("streaming"),
    "warmpath buffered": Setup("buffered"),
    "streaming without stats": Setup("streaming", {"stats": False}),
    "streaming with log fields": Setup("streaming", {"log_fields": True}),
    PICKER: Setup("ext_proc"),
}
PLAIN_AND_OURS = [name for name in SETUPS if name != PICKER]


class Gateway:
    """A running set-up."""

    def __init__(self, setup: Setup, folder: Path, pods: list[Pod], workers: int, pool: Pool | None, ends: ExitStack):
        self.setup = setup
        folder.mkdir()
        addresses = [pod.address for pod in pods]
        self.processes: dict[str, Process] = {}
        feed, module = "127.0.0.1:1", paths.FILTER
        if setup.wiring == "ext_proc":
            self.processes["epp"], feed = pool.picker(folder, ends)
        elif setup.wiring != "none" and not setup.steers:
            module = folder / "noop.wasm"
            module.write_bytes(wasmtime.wat2wasm(Path(__file__).with_name("noop.wat").read_text()))
        elif setup.steers:
            sidecar = Sidecar(folder, addresses)
            ends.callback(sidecar.stop)
            self.processes["sidecar"] = sidecar.ready().process
            feed = sidecar.feed
        self.envoy = Envoy(folder, setup.wiring, addresses, feed, setup.config, workers, module)
        ends.callback(self.envoy.stop)
        self.processes["envoy"] = self.envoy.process
        self.client = Client(self.envoy.url)
        if setup.steers:
            wait_for("requests to be steered", self.steers)

    def steers(self) -> bool:
        """By what it does: one prompt goes to one pod. By chance it would in one of a million times."""
        answers = [self.client.chat("Where does this go? " * 40) for _ in range(11)]
        for answer in answers:
            if answer.status != 200 or not answer.json()["usage"]["prompt_tokens"]:
                raise ValueError(answer)
        return len({answer.pod for answer in answers}) == 1

    def load(self, **options) -> dict:
        """One run of `warmpath-bench load`, with the CPU time of each of its processes."""
        command = [paths.BENCH, "load", "--url", self.envoy.url, "--shared", SHARED]
        command += ["--pids", ",".join(str(p.pid) for p in self.processes.values())]
        for option, value in options.items():
            command += ["--" + option.replace("_", "-"), value]
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
        result = json.loads(done.stdout)
        result["cpu_us"] = dict(zip(self.processes, result.pop("cpu_us_per_request"), strict=True))
        result[CPU] = sum(result["cpu_us"].values())
        for process in self.processes.values():
            process.require()
        return result


def size(text: str) -> int:
    """`8k` is 8,000 bytes."""
    text = text.lower()
    return int(float(text.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(text[-1], 1))


def listed(kind):
    return lambda text: [kind(one.strip()) for one in text.split(",")]


def known(name: str) -> str:
    if name not in SETUPS:
        raise argparse.ArgumentTypeError(f"no set-up is called {name!r}; there are {', '.join(SETUPS)}")
    return name


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--setups", type=listed(known), help=f"of {', '.join(SETUPS)} (all but the last)")
    p.add_argument("--epp", action="store_true", help=f"also `{PICKER}`: the reference one, behind ext_proc")
    p.add_argument("--bodies", type=listed(size), default=[size(b) for b in ("1k", "8k", "64k", "220k", "1m")])
    p.add_argument("--concurrency", type=listed(int), default=[1, 16, 150], help="connections (1,16,150)")
    p.add_argument("--rounds", type=int, default=3, help="how often each is loaded (3)")
    p.add_argument("--seconds", type=float, default=2.0, help="how long each time, beside a short warm-up (2)")
    p.add_argument("--workers", type=int, default=2, help="of each Envoy (2)")
    p.add_argument("--pods", type=int, default=4, help="simulated pods (4)")
    p.add_argument("--no-open-loop", action="store_true", help="leave out latencies at half of plain's highest rate")
    p.add_argument("--out", type=Path, default=paths.TARGET / "bench" / "gateway.json", help="where figures go")
    options = p.parse_args()
    options.setups = options.setups or PLAIN_AND_OURS
    if options.epp and PICKER not in options.setups:
        options.setups.append(PICKER)
    return options


def summary(runs: list[dict]) -> dict:
    """Medians over the rounds, and what the rounds gave where that is compared. Without a good answer, no latencies."""
    row = {}
    for key in (RPS, *LATENCIES, CPU):
        values = [run[key] for run in runs if run[key] is not None]
        row[key] = round(median(values), 3) if values else None
    row["failed"] = sum(run["failed"] for run in runs)
    row["failures"] = dict(sum((Counter(run["failures"]) for run in runs), Counter()))
    row["cpu_us"] = {name: round(median(run["cpu_us"][name] for run in runs), 1) for name in runs[0]["cpu_us"]}
    row["rounds"] = {key: [round(run[key], 1) for run in runs] for key in (RPS, CPU)}
    return row


class Bench:
    """All set-ups side by side."""

    def __init__(self, options: argparse.Namespace, gateways: dict[str, Gateway]):
        self.options, self.gateways = options, gateways

    def interleaved(self, cells: list[dict], what: str) -> list[dict]:
        """Loads each gateway with each cell, by turns. A cell holds the options of a load."""
        runs: dict[tuple[int, str], list[dict]] = {}
        for number in range(self.options.rounds):
            for at, cell in enumerate(cells):
                began = time.monotonic()
                for name, gateway in self.gateways.items():
                    run = gateway.load(warmup_s=0.3, seconds=self.options.seconds, **cell)
                    runs.setdefault((at, name), []).append(run)
                text = ", ".join(f"{value:,.0f} {key.replace('_', ' ')}" for key, value in cell.items())
                took = time.monotonic() - began
                print(f"{DIM}{what}, round {number + 1} of {self.options.rounds}: {text} ({took:.0f} s){RESET}", flush=True)
        return [
            {"setup": name, **cells[at], "workers": self.options.workers, **summary(found)}
            for (at, name), found in runs.items()
        ]

    def closed(self) -> list[dict]:
        """As fast as a number of connections get answers."""
        wanted = [(b, c) for b in self.options.bodies for c in self.options.concurrency]
        rows = self.interleaved([{"body_bytes": b, "connections": c} for b, c in wanted], "closed loop")
        return [{"concurrency" if k == "connections" else k: v for k, v in row.items()} for row in rows]

    def open(self, closed: list[dict]) -> list[dict]:
        """At half of the highest rate that plain Envoy has reached, latency counted from when each request was due."""
        cells = []
        for body in self.options.bodies:
            best = max(row[RPS] for row in closed if (row["setup"], row["body_bytes"]) == (PLAIN, body))
            cells.append({"body_bytes": body, "rate": round(best / 2), "connections": 256, "timeout_s": 5})
        return self.interleaved(cells, "open loop")


def check(rows: list[dict], gateways: dict[str, Gateway]) -> list[str]:
    """What shows that something else was measured than is claimed."""
    wrong = []
    for row in rows:
        where = f"{row['setup']}, {row['body_bytes']:,} bytes, {row['concurrency']} connections"
        if row["failed"]:
            wrong.append(f"{where}: failed: {row['failures']}")
    for name, gateway in gateways.items():
        if gateway.setup.steers != gateway.steers():
            wrong.append(f"{name}: after all, one prompt goes to {'several pods' if gateway.setup.steers else 'one pod'}")
        stats = gateway.envoy.stats()
        decided = {key: n for key, n in stats.items() if key.startswith("decisions")}
        if not decided:
            continue
        warm = sum(n for key, n in decided.items() if "reason=warm" in key)
        total = sum(decided.values())
        print(f"{name}: {total:,} decisions, {warm / total:.1%} warm, {stats['rerouted']:,} rerouted")
        if warm < 0.9 * total:
            wrong.append(f"{name}: {warm:,} of {total:,} decisions are `warm`: {decided}")
    return wrong


def main() -> int:
    options = arguments()
    began = time.monotonic()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="warmpath-gateway-")))
        pool, addresses = None, ["127.0.0.1"] * options.pods
        if PICKER in options.setups:
            *built, addresses = enter(options.pods)
            pool = Pool(folder / "cluster", *built, addresses, ends)
        pods = []
        for i, address in enumerate(addresses):
            pods.append(Pod(folder, f"pod{i}", PORT if pool else None, address, drain=SHARED, kv_tokens=4_000_000))
            ends.callback(pods[-1].stop)
            pods[-1].ready()
        gateways = {}
        for i, name in enumerate(options.setups):
            print(f"{DIM}starting {name}{RESET}", flush=True)
            gateways[name] = Gateway(SETUPS[name], folder / str(i), pods, options.workers, pool, ends)
        bench = Bench(options, gateways)
        rows = bench.closed()
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(closed_table(rows) + "\n\n" + options_table(rows))
        wrong = check(rows, gateways)
        if PLAIN in gateways and not options.no_open_loop:
            opened = bench.open(rows)
            open_file(options.out).write_text(json.dumps(opened, indent=1) + "\n")
            print("\nOpen loop, ms from when each request was due:" + open_table(opened))
            for row in opened:
                # A gateway that can't keep up leaves requests unsent, or unanswered in time. That is a result.
                failures = {cause: n for cause, n in row["failures"].items() if cause not in ("not sent", "timeout")}
                if failures:
                    wrong.append(f"{row['setup']}, {row['body_bytes']:,} bytes, open loop: failed: {failures}")
    where = f"{os.cpu_count()} cores, {options.workers} Envoy workers; figures in {os.path.relpath(options.out)}"
    print(f"\n{DIM}{time.monotonic() - began:.0f} s on {where}{RESET}")
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
