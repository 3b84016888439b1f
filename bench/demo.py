"""`make demo`: a real workload through a real gateway, round robin next to warmpath.

Starts simulated vLLM pods (or real ones: PODS=vllm), the sidecar and Envoy with several workers, plays a slice of a
recorded agent workload once with each policy, and prints one table. Both plays start with cold caches. With `--keep` it
goes on playing through the last gateway, with a page to look at and a switch between the policies.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stack import paths  # noqa: E402
from stack.envoy import Envoy  # noqa: E402
from stack.load import Recorded  # noqa: E402
from stack.pods import Pod  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402
from stack.vllm import VllmPod, install  # noqa: E402

from demo_page import DemoPage, Switch  # noqa: E402

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
    p.add_argument("--keep", action="store_true", help="go on with the last gateway until Ctrl-C")
    p.add_argument("--monitoring", action="store_true", help="with --keep: a Prometheus beside it, with our rules")
    return p.parse_args()


class Run:
    """One policy: fresh pods, a gateway, the play."""

    def __init__(self, options: argparse.Namespace, policy: str, folder: Path, keep: bool = False):
        self.options, self.policy, self.folder, self.keep = options, policy, folder, keep
        self.parts: list = []
        self.real = options.pods == "vllm"

    def start(self) -> None:
        self.pods = self.start_pods()
        addresses = [p.address for p in self.pods]
        self.sidecar = self.add(Sidecar(self.folder, addresses)).ready()
        wiring = "none" if self.policy == "round_robin" else self.options.wiring
        self.config = {} if wiring == "none" else {"debug_headers": True, **self.options.config}
        # What is kept can be switched to round robin.
        switched = {"live": True, "fallback": "round_robin"} if self.keep and wiring != "none" else {}
        envoy = (self.folder, wiring, addresses, self.sidecar.feed, self.config, self.options.concurrency)
        self.envoy = self.add(Envoy(*envoy, **switched))
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
        command = [paths.BENCH, "play", "--url", self.envoy.url, "--trace", self.options.trace, *self.how()]
        command += ["--label", self.policy, "--json", out, "--pods", ",".join(p.address for p in self.pods)]
        subprocess.run([str(c) for c in command], check=True)
        result = json.loads(out.read_text())
        stats = self.envoy.stats() if self.policy != "round_robin" else {}
        result["reasons"] = {r: sum(v for k, v in stats.items() if k.endswith(f"reason={r}}}")) for r in REASONS}
        result["stats"] = {k: v for k, v in stats.items() if v}
        return result

    def how(self) -> list:
        """How the trace is played."""
        how = ["--speed", self.options.speed or (1 if self.real else 16)]
        if limit := self.options.limit or (200 if self.real else None):
            how += ["--limit", limit]
        return [*how, "--model", "tiny", "--max-tokens-cap", 8] if self.real else how

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
    """Goes on playing, with pages to look at, until Ctrl-C."""
    watched = [part.process for part in run.parts]
    run.add(Recorded(run.folder, run.envoy.url, *run.how(), trace=run.options.trace))
    pages = {}
    if run.policy != "round_robin":
        pages["demo page"] = run.add(DemoPage(Switch(run.envoy, run.config), run.sidecar)).url + "  (the switch)"
    pages["live page"] = f"http://{run.sidecar.http}/"
    pages["gateway"] = run.envoy.url
    pages["Envoy admin"] = f"http://127.0.0.1:{run.envoy.admin}/stats?filter=warmpath"
    pages["sidecar"] = f"http://{run.sidecar.http}/status and /metrics"
    if run.options.monitoring:
        pages["Prometheus"] = start_prometheus(run)
    pages["pods"] = " ".join(f"http://{p.address}/metrics" for p in run.pods)
    pages["logs"] = str(run.folder)
    print(f"\n{BOLD}The workload goes on, until Ctrl-C{RESET}")
    for name, where in pages.items():
        print(f"  {name:<14} {where}")
    print("\nTry this twice, and look at x-warmpath-reason:\n")
    body = {"model": "tiny" if run.real else "Qwen/Qwen3-32B", "max_tokens": 8}
    body["messages"] = [{"role": "user", "content": "Say hello, in many words. " * 20}]
    url = f"{run.envoy.url}/v1/chat/completions"
    # Ended by whatever started it, it ends what it started, as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"  curl -si {url} -H 'content-type: application/json' -d '{json.dumps(body)}'", flush=True)
    try:
        while all(process.alive() for process in watched):
            time.sleep(0.5)
        print("a process ended; see the logs")
    except KeyboardInterrupt:
        print()


def start_prometheus(run: Run) -> str:
    """A Prometheus with the shipped configuration and rules, once it has data. Its page."""
    sys.path.insert(0, str(paths.ROOT / "tests" / "monitoring"))
    from prometheus import watched

    print(f"{DIM}starting Prometheus{RESET}", flush=True)
    prometheus = run.add(watched(run.folder, run))
    wait_for("Prometheus to have data", lambda: prometheus.query("warmpath:pods_hit_ratio:rate10m"), timeout=60, every=0.5)
    return f"http://{prometheus.address}/alerts"


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
        last = policy == policies[-1]
        run = Run(options, policy, folder, keep=options.keep and last)
        try:
            print(f"{DIM}{policy.replace('_', ' ')}: starting pods, sidecar and Envoy{RESET}", flush=True)
            run.start()
            results[policy] = run.play()
            if run.keep:
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
