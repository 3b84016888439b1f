"""SVG plots of lines in panels, and tables in Markdown pages. Standard library only."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PANEL_W, PANEL_H, GAP_X, GAP_Y, LEFT, TOP, COLUMNS = 230, 150, 62, 66, 62, 86, 3

# A line's name, to its points: across and up.
Lines = dict[str, list[tuple[float, float]]]


@dataclass
class Axes:
    """What the panels of a page have in common."""

    colours: dict[str, str]
    """Of each line, in the order of the legend. Okabe and Ito's are safe for the colour-blind."""
    bold: tuple[str, ...]
    """Lines that are drawn thick."""
    log: bool
    """Whether values, upwards, are on a logarithmic scale; else they are shares, from 0 to 1."""
    log_x: bool = False
    """Whether what is across is on one too."""
    label: str = "{:g}"
    """How a tick across is written."""
    ticks: tuple[float, ...] = ()
    """Where ticks across are; by default at each point."""


def text(x: float, y: float, what: str, anchor: str = "middle", size: int = 12, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{what}</text>'


def panel(lines: Lines, axes: Axes, x0: float, y0: float, title: str) -> list[str]:
    values = [v for line in lines.values() for _, v in line]
    low, high = min(values), max(values)
    if axes.log:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        ticks = [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        scale = lambda v: math.log(v / low) / math.log(high / low)  # noqa: E731
    else:
        low, high, ticks = 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]
        scale = lambda v: (v - low) / (high - low)  # noqa: E731
    across = sorted({x for line in lines.values() for x, _ in line})
    if axes.log_x:
        # Half of a tick's distance stays free on the left.
        least = across[0] / 2
        share = lambda v: math.log(v / least) / math.log(across[-1] / least)  # noqa: E731
    else:
        share = lambda v: v / across[-1]  # noqa: E731
    at_x = lambda v: x0 + share(v) * PANEL_W  # noqa: E731
    at_y = lambda v: y0 + PANEL_H * (1 - scale(v))  # noqa: E731
    out = [text(x0 + PANEL_W / 2, y0 - 10, title, more='font-weight="bold"')]
    for tick in ticks:
        y = at_y(tick)
        out.append(f'<line x1="{x0}" x2="{x0 + PANEL_W}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        out.append(text(x0 - 6, y + 4, f"{tick:g}", "end", 11))
    out += [text(at_x(x), y0 + PANEL_H + 16, axes.label.format(x), size=11) for x in axes.ticks or across]
    for name in reversed(axes.colours):
        if line := lines.get(name):
            path = " ".join(f"{at_x(a):.1f},{at_y(v):.1f}" for a, v in sorted(line))
            width = 3 if name in axes.bold else 1.6
            out.append(f'<polyline points="{path}" fill="none" stroke="{axes.colours[name]}" stroke-width="{width}"/>')
    return out


def page(title: str, below: str, panels: list[tuple[str, Lines]], axes: Axes) -> str:
    width = LEFT + COLUMNS * (PANEL_W + GAP_X)
    legend, x, y = [], 16.0, 60
    for name, colour in axes.colours.items():
        if x + 40 + 7.2 * len(name) > width:
            x, y = 16.0, y + 16
        legend.append(f'<line x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="4"/>')
        legend.append(text(x + 25, y + 4, name, "start"))
        x += 40 + 7.2 * len(name)
    # There is room for one line of it.
    top = TOP + y - 60
    height = top + math.ceil(len(panels) / COLUMNS) * (PANEL_H + GAP_Y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(16, 24, title, "start", 16, 'font-weight="bold"'),
        text(16, 43, below, "start", 12),
        *legend,
    ]
    for i, (name, found) in enumerate(panels):
        x0 = LEFT + i % COLUMNS * (PANEL_W + GAP_X)
        y0 = top + 14 + i // COLUMNS * (PANEL_H + GAP_Y)
        out += panel(found, axes, x0, y0, name)
    return "\n".join([*out, "</svg>\n"])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def fill(page: Path, tables: dict[str, str]) -> None:
    """Puts each table between its marks."""
    text = page.read_text()
    for name, table in tables.items():
        marks = (f"<!-- {name} -->", f"<!-- end of {name} -->")
        text, n = re.subn(f"(?s){marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{table}\n{marks[1]}", text)
        if n != 1:
            raise SystemExit(f"{page}: expected `{marks[0]}` and `{marks[1]}` once, found them {n} times")
    page.write_text(text)
