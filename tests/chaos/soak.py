"""`make soak`: a steady load for a long time, with all that goes on around it, and whether anything grows.

Every ten seconds something changes by turns: the plugin's configuration, the filter's build (its VMs are new each time),
a pod that is killed and comes back, a pod that leaves the pool and returns, the sidecar. Every five seconds memory and
counts are read. Flat is: from the middle of the run to its end, the slope is less than the spread of the samples.
"""

import argparse
import itertools
import json
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from chaos.faults.gateway import change, new_build  # noqa: E402
from chaos.series import Series, trend  # noqa: E402
from chaos.side import POD, Side  # noqa: E402
from plots import DOCS, Axes, Lines, page  # noqa: E402
from stack import paths  # noqa: E402
from stack.process import memory_bytes  # noqa: E402

SAMPLE_S = 5.0
CHANGE_S = 10.0


def sample(side: Side) -> dict[str, float]:
    """What must not grow. What cannot be read just now is left out."""
    found: dict[str, float] = {"Envoy, MB": memory_bytes(side.envoy.process.pid) / 2**20}
    if side.sidecar.process.alive():
        found["sidecar, MB"] = memory_bytes(side.sidecar.process.pid) / 2**20
    text = side.envoy.get("/stats")
    found["Envoy's stats"] = len(text.splitlines())
    memory = json.loads(side.envoy.get("/memory"))
    found["Envoy's heap, MB"] = int(memory["allocated"]) / 2**20
    if vms := re.search(r"wasm\.envoy\.wasm\.runtime\.v8\.active: (\d+)", text):
        found["wasm VMs"] = int(vms[1])
    stats = side.envoy.stats()
    found["index entries"] = stats.get("index_entries", 0)
    found["in flight"] = stats.get("in_flight", 0)
    return found


def changes(side: Side, builds: bool):
    """What happens, one after the other, for ever. `builds`: new builds of the filter as well."""
    pods = side.pods
    for turn in itertools.count():
        yield "configuration", lambda: change(side, {"debug_headers": True, "limits": {"choices": 2 + turn % 2}})
        pod = pods[turn % len(pods)]
        yield "pod killed", lambda pod=pod: side.kill(pod)
        yield "pod back", lambda pod=pod: (pod.process.start(), pod.ready())
        yield "sidecar killed", lambda: side.sidecar.process.kill()
        yield "sidecar back", lambda: (side.sidecar.process.start(), side.sidecar.ready())
        left = [p.address for p in pods if p is not pod]
        yield "pod leaves", lambda left=left: side.sidecar.write(left)
        yield "pod returns", lambda: side.sidecar.write([p.address for p in pods])
        if builds and turn % 4 == 3:
            yield "new build", lambda: new_build(side)


def soak(minutes: float, builds: bool, folder: Path) -> dict:
    series: dict[str, Series] = {}
    done: dict[str, int] = {}
    with ExitStack() as ends:
        # Caches that are full after a minute, and an index that is as large as they are.
        pod = {**POD, "kv_tokens": 200_000}
        side = Side(folder, "buffered", clients=32, timeout_s=5.0, pod_options=pod)
        ends.callback(side.stop)
        side.begin()
        began = time.monotonic()
        due_change, due_sample = CHANGE_S, 0.0
        what = changes(side, builds)
        while (now := time.monotonic() - began) < minutes * 60:
            if now >= due_sample:
                due_sample += SAMPLE_S
                for name, value in sample(side).items():
                    series.setdefault(name, Series(name)).add(now, value)
            if now >= due_change:
                due_change += CHANGE_S
                name, do = next(what)
                do()
                done[name] = done.get(name, 0) + 1
            time.sleep(0.2)
        records = side.records()
        alive = side.envoy.process.alive()
    cut = [r for r in records if side.is_cut(r)]
    failed = [r for r in records if r.failure and not side.is_cut(r)]
    return {
        "minutes": minutes,
        "changes": done,
        "sent": len(records),
        "failed": len(failed),
        "reasons": sorted({r.failure for r in failed}),
        "streams_cut": len(cut),
        "envoy_alive": alive,
        "trends": [asdict(trend(one)) for one in series.values()],
        "series": {name: one.points for name, one in series.items()},
    }


def table(result: dict) -> str:
    lines = [
        "| what | after a tenth of the time | at the end | slope in the second half, an hour | spread | flat |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for t in result["trends"]:
        lines.append(
            f"| {t['name']} | {t['early']:,.1f} | {t['late']:,.1f} | {t['per_hour']:+,.1f} | {t['spread']:,.1f} | "
            f"{'yes' if t['flat'] else 'no'} |"
        )
    return "\n".join(lines)


def plot(result: dict) -> str:
    """Means of each two minutes."""
    shown = {"Envoy, MB": "#d55e00", "Envoy's heap, MB": "#e69f00", "sidecar, MB": "#0072b2", "wasm VMs": "#009e73"}
    lines: Lines = {}
    for name in shown:
        buckets: dict[int, list[float]] = {}
        for at, value in result["series"][name]:
            buckets.setdefault(int(at // 120) * 2 + 1, []).append(value)
        lines[name] = [(minute, mean(values)) for minute, values in buckets.items()]
    axes = Axes(shown, ("Envoy, MB",), log=True, label="{:g}", ticks=(0, 10, 20, 30))
    return page("Long run: memory and VMs", "Across: minutes.", [("32 clients, a change each ten seconds", lines)], axes)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=30.0)
    p.add_argument("--no-builds", action="store_true", help="leave out new builds of the filter: with each, Envoy's memory grows")
    p.add_argument("--out", type=Path, default=paths.TARGET / "soak" / "result.json")
    p.add_argument("--plot", action="store_true", help="only draw docs/plots/soak.svg, of what --out holds")
    options = p.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.plot:
        result = json.loads(options.out.read_text())
        (DOCS / "plots" / "soak.svg").write_text(plot(result))
        print(table(result))
        return 0
    with tempfile.TemporaryDirectory(prefix="warmpath-soak-") as folder:
        result = soak(options.minutes, not options.no_builds, Path(folder) / "side")
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['minutes']:g} minutes, {result['sent']:,} requests, {result['failed']} failed {result['reasons']}, ")
    print(f"{result['streams_cut']} streams cut on killed pods; changes: {result['changes']}\n")
    print(table(result))
    return 0 if result["envoy_alive"] else 1


if __name__ == "__main__":
    sys.exit(main())
