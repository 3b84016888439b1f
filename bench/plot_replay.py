"""Draws what `make bench-replay` wrote: SVG plots, and the tables of docs/benchmarks.md. Standard library only."""

import argparse
import json
import math
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"

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
PANEL_W, PANEL_H, GAP_X, GAP_Y, LEFT, TOP, COLUMNS = 230, 150, 62, 66, 62, 86, 3


def text(x: float, y: float, what: str, anchor: str = "middle", size: int = 12, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{what}</text>'


def panel(rows: list[dict], figure, x0: float, y0: float, log: bool, title: str) -> list[str]:
    """One workload: a line for each rule over the load."""
    points = {p: sorted((r["load"], figure(r)) for r in rows if r["policy"] == p) for p in SHOWN}
    values = [v for line in points.values() for _, v in line]
    low, high = min(values), max(values)
    if log:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        ticks = [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        scale = lambda v: math.log(v / low) / math.log(high / low)  # noqa: E731
    else:
        low, high, ticks = 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]
        scale = lambda v: (v - low) / (high - low)  # noqa: E731
    loads = sorted({r["load"] for r in rows})
    at_x = lambda v: x0 + v / max(loads) * PANEL_W  # noqa: E731
    at_y = lambda v: y0 + PANEL_H * (1 - scale(v))  # noqa: E731
    out = [text(x0 + PANEL_W / 2, y0 - 10, title, more='font-weight="bold"')]
    for tick in ticks:
        y = at_y(tick)
        out.append(f'<line x1="{x0}" x2="{x0 + PANEL_W}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        out.append(text(x0 - 6, y + 4, f"{tick:g}", "end", 11))
    out += [text(at_x(load), y0 + PANEL_H + 16, f"{load:g}", size=11) for load in loads]
    for policy in reversed(SHOWN):
        if line := points[policy]:
            path = " ".join(f"{at_x(a):.1f},{at_y(v):.1f}" for a, v in line)
            width = 3 if policy == "warmpath" else 1.6
            out.append(f'<polyline points="{path}" fill="none" stroke="{SHOWN[policy]}" stroke-width="{width}"/>')
    return out


def page(title: str, below: str, panels: list[tuple[str, list[dict]]], figure, log: bool) -> str:
    lines = math.ceil(len(panels) / COLUMNS)
    width = LEFT + COLUMNS * (PANEL_W + GAP_X)
    height = TOP + lines * (PANEL_H + GAP_Y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(16, 24, title, "start", 16, 'font-weight="bold"'),
        text(16, 43, below, "start", 12),
    ]
    x = 16.0
    for policy, colour in SHOWN.items():
        out.append(f'<line x1="{x}" x2="{x + 20}" y1="60" y2="60" stroke="{colour}" stroke-width="4"/>')
        out.append(text(x + 25, 64, policy, "start"))
        x += 40 + 7.2 * len(policy)
    for i, (workload, rows) in enumerate(panels):
        x0 = LEFT + i % COLUMNS * (PANEL_W + GAP_X)
        y0 = TOP + 14 + i // COLUMNS * (PANEL_H + GAP_Y)
        out += panel(rows, figure, x0, y0, log, workload)
    return "\n".join([*out, "</svg>\n"])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


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


def fill(page: Path, tables: dict[str, str]) -> None:
    """Puts each table between its marks."""
    text = page.read_text()
    for name, table in tables.items():
        marks = (f"<!-- {name} -->", f"<!-- end of {name} -->")
        text, n = re.subn(f"(?s){marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{table}\n{marks[1]}", text)
        if n != 1:
            raise SystemExit(f"{page}: expected `{marks[0]}` and `{marks[1]}` once, found them {n} times")
    page.write_text(text)


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
    ttft = page("Time to first token, 90th percentile, in seconds", x, panels, lambda r: max(r["ttft_p90_s"], 1e-3), True)
    (plots / "replay-ttft.svg").write_text(ttft)
    hits = page(
        "Hit ratio, as a share of what one cache of all pods' size would find",
        x,
        shared,
        lambda r: min(r["hit_ratio"] / r["pooled_bound"], 1.0),
        False,
    )
    (plots / "replay-hits.svg").write_text(hits)
    some = {key: found for key, found in groups.items() if key[1] in (0.5, 1.0)}
    tables = {"best": best(groups), "ttft-mean": others(some, "ttft_mean_s"), "ttft-p90": others(some, "ttft_p90_s")}
    fill(DOCS / "benchmarks.md", {**tables, "replicas": replicas(rows)})


if __name__ == "__main__":
    main()
