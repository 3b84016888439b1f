"""One decision inside Envoy's V8, by the filter's own histograms, for chats of 8 KB and 220 KB: reading and hashing
(`read_us`), folding and placing (`decide_us`). Instant pods, streaming wiring, one request at a time."""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stack.client import Client  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.stack import Stack  # noqa: E402

TURN = "The order of\n three boxes is late, please check it.\n " * 8
QUANTILES = ("P50", "P90", "P99")


def body(size: int, number: int) -> dict:
    messages = [{"role": "user", "content": TURN} for _ in range(size // (len(TURN) + 40))]
    return {"model": "sim", "max_tokens": 1, "messages": [*messages, {"role": "user", "content": f"turn {number}"}]}


def quantiles(envoy, histogram: str) -> list[str]:
    """Over the whole run: the second number of each pair."""
    line = next(x for x in envoy.get(f"/stats?filter=warmpath_{histogram}").splitlines() if "P50" in x)
    return [re.search(rf"{q}\([^,]*,([^)]*)\)", line)[1] for q in QUANTILES]


def main() -> None:
    print(f"{'body':>9}  {'histogram':<10}" + "".join(f"{q:>10}" for q in QUANTILES))
    for size, rounds in ((8_000, 1500), (220_000, 300)):
        pods = {"instant": True, "kv_tokens": 4_000_000}
        with (
            tempfile.TemporaryDirectory() as folder,
            Stack(Path(folder), "streaming", concurrency=1, pod_options=pods) as stack,
        ):
            client = Client(stack.envoy.url)
            for number in range(rounds):
                client.post("/v1/chat/completions", body(size, number))
            wait_for("the histograms", lambda: "No recorded" not in stack.envoy.get("/stats?filter=warmpath_decide_us"))
            for histogram in ("read_us", "decide_us"):
                row = "".join(f"{float(v):>7.0f} µs" for v in quantiles(stack.envoy, histogram))
                print(f"{size:>7} B  {histogram:<10}{row}", flush=True)


if __name__ == "__main__":
    main()
