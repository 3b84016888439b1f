"""`make demo`: a real workload through a real gateway, round robin next to warmpath.

Starts simulated vLLM pods (or real ones: PODS=vllm), the sidecar and Envoy with several workers, plays a slice of a
recorded agent workload once with each policy, and prints one table. Both plays start with cold caches.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stack import paths  # noqa: E402
from stack.envoy import Envoy  # noqa: E402
from stack.pods import Pod  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402
from stack.vllm import VllmPod, install  # noqa: E402

RESULT = paths.TARGET / "demo" / "result.json"
REASONS = ("warm", "spill", "spread", "cold", "load_only", "fallback")
BOLD, DIM, RESET = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--pods", default="4", help="how many simulated pods, or `vllm` for two real ones on this CPU")
    p.add_argument("--kv-tokens", type=int, default=26_000, help="KV cache of a simulated pod, tokens")
    p.add_argument("--prefill", type=int, default=16_000, help="prefill rate of a simulated pod, tokens a second")
    p.add_argument("--step-ms", type=int, default=30, help="one decode step of a simulated pod")
    p.add_argument("--speed", type=float, help="how much faster than recorded to play (16; with real pods 1)")
    p.add_argument("--limit", type=int, help="play only so many requests (all; with real pods 200)")
    p.add_argument("--trace", type=Path, default=paths.TRACE, help="JSONL of OpenAI bodies, plain or .gz")
    p.add_argument("--concurrency", type=int, default=4, help="Envoy workers")
    p.add_argument("--wiring", choices=("buffered", "streaming"), default="buffered", help="how the filter is wired")
    p.add_argument("--config", type=json.loads, default={}, help="plugin configuration, JSON")
    p.add_argument("--policies", default="round_robin,warmpath", help="what to play, in this order")
    p.add_argument("--keep", action="store_true", help="leave the last gateway running until Ctrl-C")
    return p.parse_args()


class Run:
    """One policy: fresh pods, a gateway, the play."""

    def __init__(self, options: argparse.Namespace, policy: str, folder: Path):
        self.options, self.policy, self.folder = options, policy, folder
        self.parts: list = []
        self.real = options.pods == "vllm"

    def start(self) -> None:
        self.pods = self.start_pods()
        addresses = [p.address for p in self.pods]
        self.sidecar = self.add(Sidecar(self.folder, addresses)).ready()
        wiring = "none" if self.policy == "round_robin" else self.options.wiring
        config = {} if wiring == "none" else {"debug_headers": True, **self.options.config}
        self.envoy = self.add(
            Envoy(self.folder, wiring, addresses, self.sidecar.feed, config, concurrency=self.options.concurrency)
        )
        if wiring != "none":
            wait_for("the endpoint table", lambda: self.envoy.stats().get("endpoints_choosable") == len(addresses))

    def start_pods(self) -> list:
        if self.real:
            pods = [self.add(VllmPod(self.folder, i)) for i in range(2)]
        else:
            pods = [
                self.add(
                    Pod(
                        self.folder,
                        f"pod{i}",
                        model="Qwen/Qwen3-32B",
                        kv_tokens=self.options.kv_tokens,
                        prefill_tokens_per_s=self.options.prefill,
                        step_ms=self.options.step_ms,
                    )
                )
                for i in range(int(self.options.pods))
            ]
        return [pod.ready() for pod in pods]

    def add(self, part):
        self.parts.append(part)
        return part

    def play(self) -> dict:
        out = self.folder / f"{self.policy}.json"
        command = [paths.BENCH, "play", "--url", self.envoy.url, "--trace", self.options.trace]
        command += ["--speed", self.options.speed or (1 if self.real else 16), "--label", self.policy, "--json", out]
        command += ["--pods", ",".join(p.address for p in self.pods)]
        if limit := self.options.limit or (200 if self.real else None):
            command += ["--limit", limit]
        if self.real:
            command += ["--model", "tiny", "--max-tokens-cap", 8]
        subprocess.run([str(c) for c in command], check=True)
        result = json.loads(out.read_text())
        stats = self.envoy.stats() if self.policy != "round_robin" else {}
        result["reasons"] = {r: sum(v for k, v in stats.items() if k.endswith(f"reason={r}}}")) for r in REASONS}
        result["stats"] = {k: v for k, v in stats.items() if v}
        return result

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()


def table(results: dict[str, dict]) -> str:
    """One column a policy."""
    rows: list[tuple[str, list[str]]] = []
    names = list(results)

    def row(label: str, show) -> None:
        rows.append((label, [show(results[n]) for n in names]))

    row("requests", lambda r: str(r["requests"]))
    row("failed", lambda r: str(r["failed"]))
    row("hit ratio", lambda r: f"{r['hit_ratio'] or 0:.3f}")
    for q in ("p50", "p90", "p99"):
        # None where no request was answered.
        row(f"TTFT {q}", lambda r, q=q: "-" if r[f"ttft_{q}_ms"] is None else f"{r[f'ttft_{q}_ms']:,.0f} ms")
    row("per pod", lambda r: " ".join(str(n) for _, n in sorted(r["spread"].items())))
    for reason in REASONS:
        if any(results[n]["reasons"][reason] for n in names):
            row(f"decided: {reason}", lambda r, reason=reason: str(r["reasons"][reason] or "-"))
    widths = [max(len(n), *(len(cells[i]) for _, cells in rows)) for i, n in enumerate(names)]
    first = max(len(label) for label, _ in rows)
    lines = ["  ".join([" " * first, *(f"{BOLD}{n.replace('_', ' '):>{w}}{RESET}" for n, w in zip(names, widths))])]
    lines += ["  ".join([f"{label:<{first}}", *(f"{c:>{w}}" for c, w in zip(cells, widths))]) for label, cells in rows]
    return "\n".join(lines)


def predicted_and_true(result: dict) -> str:
    """What warmpath believed of the pods' caches, next to what they said."""
    stats = result["stats"]
    true, predicted = stats.get("true_hit_tokens", 0), stats.get("predicted_hit_tokens", 0)
    off = (predicted - true) / true * 100 if true else float("nan")
    return f"cached tokens: {predicted:,} predicted, {true:,} reported by the pods ({off:+.1f} %)"


def keep(run: Run) -> None:
    body = '{"model": "%s", "max_tokens": 8, "messages": [{"role": "user", "content": "%s"}]}' % (
        "tiny" if run.real else "Qwen/Qwen3-32B",
        "Say hello, in many words. " * 20,
    )
    print(f"\n{BOLD}Running until Ctrl-C{RESET}")
    print(f"  gateway        {run.envoy.url}")
    print(f"  Envoy admin    http://127.0.0.1:{run.envoy.admin}/stats?filter=warmpath")
    print(f"  sidecar        http://{run.sidecar.http}/status and /metrics")
    print("  pods           " + " ".join(f"http://{p.address}/metrics" for p in run.pods))
    print("  logs           " + str(run.folder))
    print("\nTry this twice, and look at x-warmpath-reason:\n")
    print(f"  curl -si {run.envoy.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'")
    try:
        while all(part.process.alive() for part in run.parts):
            time.sleep(0.5)
        print("a process ended; see the logs")
    except KeyboardInterrupt:
        print()


def main() -> int:
    options = arguments()
    if options.pods == "vllm":
        install()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    began = time.monotonic()
    policies = options.policies.split(",")
    for policy in policies:
        folder = Path(tempfile.mkdtemp(prefix=f"warmpath-{policy}-"))
        run = Run(options, policy, folder)
        try:
            print(f"{DIM}{policy.replace('_', ' ')}: starting pods, sidecar and Envoy{RESET}", flush=True)
            run.start()
            results[policy] = run.play()
            if options.keep and policy == policies[-1]:
                report(results, began)
                keep(run)
        except BaseException:
            for log in folder.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
            raise
        finally:
            run.stop()
            shutil.rmtree(folder, ignore_errors=True)
    if not options.keep:
        report(results, began)
    return 1 if any(r["failed"] for r in results.values()) else 0


def report(results: dict[str, dict], began: float) -> None:
    RESULT.write_text(json.dumps({"policies": results}, indent=1))
    print("\n" + table(results))
    for name, result in results.items():
        if result["failed"]:
            print(f"\n{name}: failed: " + ", ".join(f"{n} x {cause}" for cause, n in result["failures"].items()))
    if "warmpath" in results:
        print("\n" + predicted_and_true(results["warmpath"]))
    print(f"\n{DIM}{time.monotonic() - began:.0f} s; figures in {os.path.relpath(RESULT)}{RESET}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
