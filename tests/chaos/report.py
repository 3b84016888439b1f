"""Rows of the fault matrix: one a fault, over all runs. Run by itself, it puts the table into docs/faults.md."""

import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stack import paths  # noqa: E402


def line(row: dict) -> str:
    """One run, as it goes by."""
    back = "never" if row["recovered_s"] is None else f"{row['recovered_s']:.2f} s"
    why = "; ".join(f"{n} {reason}" for reason, n in row["reasons"].items())
    more = f" ({why})" if why else ""
    cut = f", {row['streams_cut']}/{row['streams_cut_plain']} streams cut" if row["streams_cut"] else ""
    wrong = f" WRONG: {row['wrong'][:3]}" if row["wrong"] else ""
    share = row["hits"]["before"], row["hits"]["during"], row["hits"]["after"]
    return (
        f"{row['run']} {row['wiring']:9} {row['fault']:32} {row['failed']}/{row['sent']} failed{more}, plain "
        f"{row['failed_plain']}/{row['sent_plain']}{cut}, hits back after {back} {share}{wrong}"
    )


def summary(rows: list[dict]) -> list[dict]:
    """One row a fault: sums over the runs, the slowest recovery, and each run."""
    result = []
    for name in dict.fromkeys(row["fault"] for row in rows):
        runs = [row for row in rows if row["fault"] == name]
        row: dict = {"fault": name, "runs": len(runs)}
        for key in ("sent", "answered", "failed", "streams_cut"):
            for key in (key, f"{key}_plain"):
                row[key] = sum(run[key] for run in runs)
        for key in ("reasons", "reasons_plain"):
            row[key] = dict(sum((Counter(run[key]) for run in runs), Counter()))
        row["runs_with_more"] = sum(run["failed"] > run["failed_plain"] for run in runs)
        back = [run["recovered_s"] for run in runs]
        row["recovered_s"] = None if None in back else max(back)
        row["recovers_s"] = runs[0]["recovers_s"]
        row["each"] = runs
        result.append(row)
    return result


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| fault | sent | failed | of plain Envoy's | failed there | streams cut, there | runs with more | hits back, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        back = "never" if row["recovered_s"] is None else f"{row['recovered_s']:.2f}"
        lines.append(
            f"| {row['fault']} | {row['sent']:,} | {row['failed']:,} | {row['sent_plain']:,} | {row['failed_plain']:,} | "
            f"{row['streams_cut']}, {row['streams_cut_plain']} | {row['runs_with_more']} of {row['runs']} | {back} |"
        )
    return "\n".join(lines)


def main() -> None:
    page = paths.ROOT / "docs" / "faults.md"
    rows = json.loads((paths.TARGET / "chaos" / "result.json").read_text())
    before, rest = page.read_text().split("<!-- matrix -->\n", 1)
    _, after = rest.split("<!-- /matrix -->", 1)
    page.write_text(f"{before}<!-- matrix -->\n{table(rows)}\n<!-- /matrix -->{after}")


if __name__ == "__main__":
    main()
