"""Breaks things under load, on a gateway with warmpath and on a plain one at once, and counts what failed.

Both gateways have pods and clients of their own; the clients send the same requests, in a closed loop, and record each.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import hits, report  # noqa: E402
from chaos.faults import FAULTS, Fault  # noqa: E402
from chaos.side import PLAIN, Side  # noqa: E402
from stack import paths  # noqa: E402
from stack.envoy import BROKEN  # noqa: E402
from stack.process import wait_for  # noqa: E402


@dataclass(frozen=True)
class Times:
    """How long a run takes, in seconds. The fault itself lasts a little longer where mending takes time."""

    before: float = 3.0
    during: float = 4.0
    after: float = 8.0
    timeout: float = 3.0
    """Of each request."""
    clients: int = 32


def both(pool: ThreadPoolExecutor, do: Callable, sides: list) -> list:
    """Does it on all sides at the same time."""
    return list(pool.map(do, sides))


def run(fault: Fault, wiring: str, folder: Path, times: Times) -> dict:
    """One fault, on both sides. What came of it."""
    with ExitStack() as ends:
        pool = ends.enter_context(ThreadPoolExecutor(2))

        def start(wiring: str) -> Side:
            plain = wiring == PLAIN
            options = fault.options(ends, plain, folder / f"{wiring}-parts")
            if plain:
                options.setdefault("sidecar", False)
            side = Side(folder / wiring, wiring, times.clients, times.timeout, **options)
            ends.callback(side.stop)
            return side

        sides = both(pool, start, [wiring, PLAIN])
        breaking = [fault.run(side) for side in sides]
        began = time.time()
        both(pool, Side.begin, sides)
        time.sleep(times.before)
        broke = time.time()
        both(pool, next, breaking)
        time.sleep(max(0.0, broke + times.during - time.time()))
        both(pool, lambda one: next(one, None), breaking)
        ended = time.time()
        time.sleep(times.after)
        until = time.time()
        ours, plain = both(pool, lambda side: outcome(side, began, broke, ended, until), sides)
        wrong = soundness(sides[0])
    row = {
        "fault": fault.name,
        "wiring": wiring,
        **ours,
        **{f"{key}_plain": value for key, value in plain.items()},
        "recovers_s": fault.recovers_s,
        "during_s": round(ended - broke, 1),
        "wrong": wrong,
    }
    return row


def outcome(side: Side, began: float, broke: float, ended: float, until: float) -> dict:
    """What was counted on one side."""
    ended = side.mended or ended
    records = side.records()
    cut = [r for r in records if side.is_cut(r)]
    failed = [r for r in records if r.failure and not side.is_cut(r)]
    found = hits.hits(records, side.lost)
    shares = {
        # Not the first second, in which caches fill.
        "before": hits.ratio(found, began + 1, broke),
        "during": hits.ratio(found, broke, ended),
        "after": hits.ratio(found, ended, until),
    }
    return {
        "sent": len(records),
        "answered": len(records) - len(failed) - len(cut),
        "failed": len(failed),
        "reasons": dict(Counter(r.failure for r in failed)),
        "failed_when": dict(Counter(when(r.start, broke, ended) for r in failed)),
        "streams_cut": len(cut),
        "recovered_s": hits.recovered(found, ended, until),
        "hits": {key: None if value is None else round(value, 3) for key, value in shares.items()},
        **side.notes,
    }


def when(at: float, broke: float, ended: float) -> str:
    return "before" if at < broke else "during" if at < ended else "after"


def soundness(side: Side) -> list[str]:
    """What should not be, after the load."""
    wrong = []
    log = side.envoy.process.log()
    if not side.breaks_filter:
        wrong += [line for line in log.splitlines() if any(sign in line for sign in BROKEN)]
    try:
        wait_for("nothing in flight", lambda: side.envoy.stats()["in_flight"] == 0, timeout=5)
    except TimeoutError as error:
        wrong.append(f"{error} {side.envoy.stats().get('in_flight')}")
    return wrong


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=1, help="of the whole matrix; the wiring changes with each (1)")
    p.add_argument("--faults", help="only those whose name holds one of these, by commas")
    p.add_argument("--wiring", choices=("buffered", "streaming"), help="only that one")
    p.add_argument("--during", type=float, default=Times.during, help="seconds that a fault lasts")
    p.add_argument("--after", type=float, default=Times.after, help="seconds to watch afterwards")
    p.add_argument("--out", type=Path, default=paths.TARGET / "chaos" / "result.json")
    p.add_argument("--keep", type=Path, help="a folder for logs and records")
    return p.parse_args()


def main() -> int:
    options = arguments()
    wanted = [word.strip() for word in (options.faults or "").split(",")]
    faults = [fault for name, fault in FAULTS.items() if any(word in name for word in wanted)]
    times = Times(during=options.during, after=options.after)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for number in range(options.runs):
        wiring = options.wiring or ("buffered", "streaming")[number % 2]
        for fault in faults:
            with tempfile.TemporaryDirectory(prefix="warmpath-chaos-") as temporary:
                folder = (options.keep or Path(temporary)) / f"{number}-{fault.name.replace(' ', '-')}"
                row = {"run": number + 1, **run(fault, wiring, folder, times)}
            rows.append(row)
            print(report.line(row), flush=True)
            options.out.write_text(json.dumps(report.summary(rows), indent=1) + "\n")
    print("\n" + report.table(report.summary(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
