"""Draws what `make bench-replay` wrote: SVG plots, and the tables of docs/benchmarks.md. Standard library only."""

import argparse
import json
import math
from pathlib import Path

from plots import DOCS, Axes, Lines, fill, markdown, page

SHOWN = {  # colour-blind-safe (Okabe and Ito)
    "warmpath": "#d55e00",
    "llm-d": "#0072b2",
    "llm-d-tuned": "#56b4e9",
    "smg": "#009e73",
    "preble": "#cc79a7",
    "higress": "#e69f00",
    "least-request": "#777777",
    "round-robin": "#bbbbbb",
}


def lines(rows: list[dict], figure) -> Lines:
    """One workload: a line for each rule over the load."""
    return {p: [(r["load"], figure(r)) for r in rows if r["policy"] == p] for p in SHOWN}


def best(groups: dict[tuple, list[dict]]) -> str:
    """warmpath beside the best of the others, whichever that is for each figure."""
    rows = []
    for (workload, load), found in groups.items():
        mine = next(r for r in found if r["policy"] == "warmpath")
        bound = mine["pooled_bound"]
        cells = [workload, f"{load:g}", f"{mine['hit_ratio']:.3f}"]
        cells.append(f"{mine['hit_ratio'] / bound:.3f}" if bound > 0.01 else "-")
        for figure in ("ttft_mean_s", "ttft_p90_s"):
            other = min((r for r in found if r is not mine), key=lambda r: r[figure])
            ratio = mine[figure] / other[figure]
            cells += [f"{mine[figure]:.3f}", f"{other[figure]:.3f} {other['policy']}", f"{ratio:.2f}"]
        rows.append(cells)
    figures = ["TTFT mean, s", "best other", "ratio", "TTFT p90, s", "best other", "ratio"]
    return markdown(["workload", "load", "hit ratio", "of pooled", *figures], rows)


def others(groups: dict[tuple, list[dict]], figure: str) -> str:
    """Each rule's figure as a multiple of warmpath's."""
    rules = [r["policy"] for r in next(iter(groups.values())) if r["policy"] != "warmpath"]
    rows = []
    for (workload, load), found in groups.items():
        by = {r["policy"]: r[figure] for r in found}
        times = (by[rule] / by["warmpath"] for rule in rules)
        rows.append([workload, f"{load:g}", *(f"{t:.2f}" if t < 10 else f"{t:,.0f}" for t in times)])
    return markdown(["workload", "load", *rules], rows)


def replicas(rows: list[dict]) -> str:
    """Hit ratios of one gateway beside those of several, by the time until they hear of each other."""
    out = []
    for many in [r for r in rows if r["replicas"] > 1 and r["gossip_s"] == 0.05]:
        like = [r for r in rows if all(r[k] == many[k] for k in ("workload", "load", "policy"))]
        one = next((r["hit_ratio"] for r in like if r["replicas"] == 1), math.nan)
        by = {r["gossip_s"]: r["hit_ratio"] for r in like if r["replicas"] == many["replicas"]}
        figures = [f"{v:.3f}" for v in (one, by[0.002], by[0.05], by[None])]
        out.append([many["workload"], f"{many['load']:g}", many["policy"], *figures])
    return markdown(["workload", "load", "rule", "1 gateway", "8, 2 ms", "8, 50 ms", "8, never"], out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="what `make bench-replay` wrote")
    options = parser.parse_args()
    rows = json.loads(options.rows.read_text())
    single = [r for r in rows if r["replicas"] == 1]
    groups: dict[tuple, list[dict]] = {}
    for row in single:
        groups.setdefault((row["workload"], row["load"]), []).append(row)
    workloads = list(dict.fromkeys(r["workload"] for r in single))
    panels = [(w, [r for r in single if r["workload"] == w]) for w in workloads]
    shared = [(w, found) for w, found in panels if found[0]["pooled_bound"] > 0.01]
    plots = DOCS / "plots"
    plots.mkdir(exist_ok=True)
    x = "Across: request rate, as a share of the highest that least request sustains."
    ttft = [(w, lines(found, lambda r: max(r["ttft_p90_s"], 1e-3))) for w, found in panels]
    title = "Time to first token, 90th percentile, in seconds"
    (plots / "replay-ttft.svg").write_text(page(title, x, ttft, Axes(SHOWN, ("warmpath",), log=True)))
    hits = [(w, lines(found, lambda r: min(r["hit_ratio"] / r["pooled_bound"], 1.0))) for w, found in shared]
    title = "Hit ratio, as a share of what one cache of all pods' size would find"
    (plots / "replay-hits.svg").write_text(page(title, x, hits, Axes(SHOWN, ("warmpath",), log=False)))
    some = {key: found for key, found in groups.items() if key[1] in (0.5, 1.0)}
    tables = {"best": best(groups), "ttft-mean": others(some, "ttft_mean_s"), "ttft-p90": others(some, "ttft_p90_s")}
    fill(DOCS / "benchmarks.md", {**tables, "replicas": replicas(rows)})


if __name__ == "__main__":
    main()
