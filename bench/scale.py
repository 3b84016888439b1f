#!/usr/bin/env python3
"""How warmpath grows with the number of pods. `make bench-scale`; docs/scale.md has the figures.

The core: `core/examples/scale.rs`. The sidecar: the real one scrapes 10 to 1,000 addresses of one server of simulated
pods, whose page is a recorded one of vLLM, once a second. A gateway: real Envoys of 2 and 16 workers in front of these
(`scale_in_envoy.py`). CPU time and memory are read from /proc, so a busy machine blurs them little. Writes
target/bench/scale.json; `--docs` puts what that holds into docs/scale.md and its plot.
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import scale_in_envoy  # noqa: E402
from plots import DOCS, Axes, fill, markdown, page  # noqa: E402
from scale_in_envoy import Pods  # noqa: E402
from stack.process import cpu_s, memory_bytes, wait_for  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402


async def sidecar(addresses: list[str], seconds: float, folder: Path) -> dict:
    pods = len(addresses)
    said = await asyncio.to_thread(lambda: Sidecar(folder, addresses).ready())
    try:
        pid = said.process.pid

        def ready() -> int:
            return list(said.states().values()).count("ready")

        await asyncio.to_thread(wait_for, f"{pods} pods to be ready", lambda: ready() == pods, 60.0, 1.0)
        at, cpu, version = time.monotonic(), cpu_s(pid), await asyncio.to_thread(said.metric, "warmpath_sidecar_table_version")
        await asyncio.sleep(seconds)
        cpu, at = cpu_s(pid) - cpu, time.monotonic() - at
        tables = await asyncio.to_thread(said.metric, "warmpath_sidecar_table_version") - version
        return {
            "pods": pods,
            "cores": round(cpu / at, 4),
            "memory_bytes": memory_bytes(pid),
            "tables_per_s": round(tables / at, 2),
            "not_ready": pods - await asyncio.to_thread(ready),
        }
    finally:
        said.stop()


def slope(points: list[tuple[float, float]]) -> float:
    """Exponent of the power by which values grow between the last two points."""
    (x0, y0), (x1, y1) = points[-2:]
    return round(math.log(y1 / y0) / math.log(x1 / x0), 2)


async def sidecars(options: argparse.Namespace) -> list[dict]:
    rows = []
    async with Pods() as all_pods:
        for pods in options.pods:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(await sidecar(all_pods.addresses(pods), options.seconds, Path(folder)))
                print(json.dumps(rows[-1]), flush=True)
    return rows


# Of the core: a column's name in the docs, its key, and how a value is written.
CORE = [
    ("endpoints", "endpoints", "{:,}"),
    ("entries", "entries", "{:,}"),
    ("view, MB", "view_bytes", "{:.0f}"),
    ("table, KB", "table_bytes", "{:.1f}"),
    ("table read, µs", "decode_us", "{:,.1f}"),
    ("taken over, µs", "apply_us", "{:,.1f}"),
    ("a route folded, µs", "fold_us", "{:,.1f}"),
    ("decision, µs", "decide_us", "{:,.1f}"),
    ("by address, µs", "by_address_us", "{:,.2f}"),
]
# Of a gateway.
GATEWAY = [
    ("pods", "pods", "{:,}"),
    ("workers", "workers", "{}"),
    ("memory, MB", "memory_bytes", "{:.0f}"),
    ("cores when idle", "idle_cores", "{:.3f}"),
    ("feed down, KB/s", "feed_down_bytes_per_s", "{:.0f}"),
    ("feed up, KB/s", "feed_up_bytes_per_s", "{:.1f}"),
    ("requests a second", "requests_per_s", "{:.0f}"),
    ("CPU a request, µs", "cpu_us_per_request", "{:,.0f}"),
    ("decision p50, µs", "decide_us_p50", "{:.0f}"),
    ("p99", "decide_us_p99", "{:.0f}"),
]
UNITS = {
    "view_bytes": 1e6,
    "table_bytes": 1e3,
    "memory_bytes": 1e6,
    "feed_down_bytes_per_s": 1e3,
    "feed_up_bytes_per_s": 1e3,
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#222222", "#56b4e9")


def docs(result: dict) -> None:
    """Puts the figures into docs/scale.md, and draws them."""
    rows = [[form.format(row[key] / UNITS[key] if key in UNITS else row[key]) for _, key, form in CORE] for row in result["core"]]
    rows.append(["slope", *(str(result["slope"].get(key, "")) for _, key, _ in CORE[1:])])
    pods = [[f"{row['pods']:,}", f"{row['cores']:.3f}", f"{row['memory_bytes'] / 1e6:.0f}", f"{row['tables_per_s']:.1f}"] for row in result["sidecar"]]
    gateways = [[form.format(row[key] / UNITS[key] if key in UNITS else row[key]) for _, key, form in GATEWAY] for row in result["gateway"]]
    tables = {
        "gateway": markdown([name for name, _, _ in GATEWAY], gateways),
        "core": markdown([name for name, _, _ in CORE], rows),
        "sidecar": markdown(["pods", "cores", "memory, MB", "tables a second"], pods),
    }
    fill(DOCS / "scale.md", tables)
    times = {name: key for name, key, _ in CORE if key.endswith("_us")}
    of_core = {name: [(row["endpoints"], row[key]) for row in result["core"]] for name, key in times.items()}
    of_sidecar = {
        "cores / 1,000": [(row["pods"], row["cores"] * 1000) for row in result["sidecar"]],
        "MB": [(row["pods"], row["memory_bytes"] / 1e6) for row in result["sidecar"]],
    }
    colours = dict(zip([*of_core, *of_sidecar], COLOURS, strict=True))
    axes = Axes(colours, ("decision, µs", "cores / 1,000"), log=True, log_x=True)
    panels = [("A VM of the filter, by endpoints", of_core), ("The sidecar, by pods", of_sidecar)]
    (DOCS / "plots" / "scale.svg").write_text(page("What grows with the number of pods", "Both axes logarithmic.", panels, axes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--seconds", type=float, default=30, help="measured for each number of pods")
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench/scale.json")
    parser.add_argument("--docs", action="store_true", help="only put into docs/scale.md what --out holds")
    options = parser.parse_args()
    if options.docs:
        docs(json.loads(options.out.read_text()))
        return
    command = ["cargo", "run", "--quiet", "--release", "-p", "warmpath-core", "--example", "scale"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    core = [json.loads(line) for line in done.stdout.splitlines()]
    print(done.stdout, end="", flush=True)
    rows = asyncio.run(sidecars(options))
    gateways = asyncio.run(scale_in_envoy.gateways())
    by_endpoints = {name: slope([(row["endpoints"], row[name]) for row in core]) for name in core[0] if name.endswith(("_us", "_bytes"))}
    by_pods = {name: slope([(row["pods"], row[name]) for row in rows]) for name in ("cores", "memory_bytes")} if len(rows) > 1 else {}
    result = {"core": core, "sidecar": rows, "gateway": gateways, "slope": {**by_endpoints, **{f"sidecar_{name}": value for name, value in by_pods.items()}}}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["slope"]))


if __name__ == "__main__":
    main()
