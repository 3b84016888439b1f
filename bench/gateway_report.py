"""Tables and plots of what `make bench-gateway` measured: on the terminal, and in docs/benchmarks.md.

Set-ups are loaded by turns, so each round's figures are compared within that round: what else the machine does then
weighs on all of them.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from plots import DOCS, Axes, fill, markdown, page

CPU, RPS = "cpu_us_per_request", "rps"
PLAIN, PICKER = "plain", "endpoint picker"
LATENCIES = ("mean_ms", "p50_ms", "p90_ms", "p99_ms")
COLOURS = {  # colour-blind-safe (Okabe and Ito)
    PLAIN: "#777777",
    "no-op filter": "#bbbbbb",
    "warmpath streaming": "#d55e00",
    "warmpath buffered": "#e69f00",
    "streaming without stats": "#56b4e9",
    "streaming with log fields": "#009e73",
    PICKER: "#0072b2",
}
BOLD, DIM, RESET = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def size(length: int) -> str:
    return f"{length / 1_000_000:g} MB" if length >= 1_000_000 else f"{length / 1_000:g} KB"


def cells(rows: list[dict], *keys: str) -> dict[tuple, dict[str, dict]]:
    """Rows by what they have in common, and then by set-up."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), {})[row["setup"]] = row
    return found


def times(row: dict, other: dict, key: str) -> float:
    """A figure as a multiple of another set-up's: the median of the rounds' multiples."""
    return median(a / b for a, b in zip(row["rounds"][key], other["rounds"][key], strict=True))


def spread(row: dict, key: str) -> str:
    """Half of the distance between the rounds, as a share of the median."""
    values = row["rounds"][key]
    return f"±{(max(values) - min(values)) / 2 / max(median(values), 1e-9):.0%}"


def closed_table(rows: list[dict]) -> str:
    lines = []
    width = max(len(row["setup"]) for row in rows)
    for (body, connections), found in cells(rows, "body_bytes", "concurrency").items():
        title = f"{size(body)}, {connections} connection{'s' if connections > 1 else ''}"
        heads = f"{'rps':>9}{'of plain':>15}" + "".join(f"{k[:-3] + ' ms':>10}" for k in LATENCIES)
        lines.append(f"\n{BOLD}{title:<{width}}{heads}{'CPU µs':>10}{'of plain':>14}{'failed':>8}{RESET}")
        for name, row in found.items():
            plain = found.get(PLAIN)
            rps, cpu = (f"{times(row, plain, k):.2f}" if plain else "-" for k in (RPS, CPU))
            line = f"{name:<{width}}{row[RPS]:>9,.0f} {spread(row, RPS):<6}{rps:>8}"
            line += "".join(f"{row[k]:>10.2f}" for k in LATENCIES)
            lines.append(f"{line}{row[CPU]:>10,.0f} {spread(row, CPU):<6}{cpu:>7}{row['failed']:>8}")
    return "\n".join(lines)


def open_table(rows: list[dict]) -> str:
    lines = []
    width = max(len(row["setup"]) for row in rows)
    for (body, rate), found in cells(rows, "body_bytes", "rate").items():
        title = f"{size(body)}, {rate:,} rps"
        heads = "".join(f"{k:>10}" for k in ("p50 ms", "added", "p99 ms", "added", "CPU µs", "added"))
        lines.append(f"\n{BOLD}{title:<{width}}{heads}{RESET}")
        for name, row in found.items():
            line = f"{name:<{width}}"
            for key, form in (("p50_ms", "10.2f"), ("p99_ms", "10.2f"), (CPU, "10,.0f")):
                if row[key] is None:
                    line += f"{'-':>10}{'-':>10}"
                else:
                    line += f"{row[key]:{form}}{row[key] - found[PLAIN][key]:{form}}"
            failed = f"  failed: {row['failures']}" if row["failed"] else ""
            lines.append(line + ("" if keeps_up(row) else "  cannot keep up") + failed)
    return "\n".join(lines)


def keeps_up(row: dict) -> bool:
    """Whether about as much came out as went in."""
    return row[RPS] > 0.9 * row["rate"]


OPTIONS = (("all stats", "warmpath streaming", "streaming without stats"),)
OPTIONS += (("log fields", "streaming with log fields", "warmpath streaming"),)


def options(rows: list[dict]) -> list[tuple[str, int, float, float]]:
    """What an option costs, for each length of body: µs, and as a share of a request's CPU time. Over all rounds and
    numbers of connections."""
    found = []
    for name, with_it, without in OPTIONS:
        for body in dict.fromkeys(row["body_bytes"] for row in rows):
            pairs = [
                pair
                for (length, _), cell in cells(rows, "body_bytes", "concurrency").items()
                if length == body and with_it in cell and without in cell
                for pair in zip(cell[with_it]["rounds"][CPU], cell[without]["rounds"][CPU], strict=True)
            ]
            if pairs:
                found.append((name, body, median(a - b for a, b in pairs), median(a / b for a, b in pairs) - 1))
    return found


def options_table(rows: list[dict]) -> str:
    lines = [f"{name:<11}{size(body):>7}{us:>+8.0f} µs{share:>+7.0%}" for name, body, us, share in options(rows)]
    return "\n".join([f"{BOLD}what options cost, CPU time of a request{RESET}", *lines]) if lines else ""


def documented(closed: list[dict], opened: list[dict]) -> dict[str, str]:
    """The tables of docs/benchmarks.md."""
    names = list(dict.fromkeys(row["setup"] for row in closed))
    others = [name for name in names if name != PLAIN]
    cpu = [
        [size(body), str(n), f"{found[PLAIN][CPU]:,.0f} µs", *(f"{times(found[o], found[PLAIN], CPU):.2f}" for o in others)]
        for (body, n), found in cells(closed, "body_bytes", "concurrency").items()
    ]
    most = max(row["concurrency"] for row in closed)
    rps = [
        [size(body), f"{found[PLAIN][RPS]:,.0f}", *(f"{times(found[o], found[PLAIN], RPS):.2f}" for o in others)]
        for (body, n), found in cells(closed, "body_bytes", "concurrency").items()
        if n == most
    ]
    added = []
    for (body, rate), found in cells(opened, "body_bytes", "rate").items():
        row = [size(body), f"{rate:,}", *(f"{found[PLAIN][k]:.2f}" for k in ("p50_ms", "p99_ms"))]
        for other in others:
            more = (f"{found[other][k] - found[PLAIN][k]:+.2f}" for k in ("p50_ms", "p99_ms"))
            row.append(" / ".join(more) if keeps_up(found[other]) else "cannot keep up")
        added.append(row)
    cost = [[name, size(body), f"{us:+.0f} µs", f"{share * 100:+.0f} %"] for name, body, us, share in options(closed)]
    return {
        "gateway-cpu": markdown(["body", "connections", PLAIN, *others], cpu),
        "gateway-rps": markdown(["body", f"{PLAIN}, rps", *others], rps),
        "gateway-open": markdown(["body", "rps", "plain p50", "plain p99", *(f"{o}, p50 / p99" for o in others)], added),
        "gateway-options": markdown(["option", "body", "CPU time of a request", "share"], cost),
    }


def plot(rows: list[dict]) -> str:
    colours = {name: colour for name, colour in COLOURS.items() if any(row["setup"] == name for row in rows)}
    panels = []
    for (connections,) in cells(rows, "concurrency"):
        found = [row for row in rows if row["concurrency"] == connections]
        lines = {name: [(r["body_bytes"] / 1000, r[CPU]) for r in found if r["setup"] == name] for name in colours}
        panels.append((f"{connections} connection{'s' if connections > 1 else ''}", lines))
    axes = Axes(colours, ("warmpath streaming",), log=True, log_x=True)
    return page("CPU time of a request, µs: Envoy and its sidecar", "Across: length of the body, KB.", panels, axes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what `make bench-gateway` wrote")
    file = parser.parse_args().rows
    closed, opened = (json.loads(f.read_text()) for f in (file, open_file(file)))
    (DOCS / "plots" / "gateway-cpu.svg").write_text(plot(closed))
    fill(DOCS / "benchmarks.md", documented(closed, opened))


def open_file(file: Path) -> Path:
    """Where the open loop's rows stand, beside the others."""
    return file.with_stem(file.stem + "-open")


if __name__ == "__main__":
    main()
