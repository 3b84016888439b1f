"""`warmpath validate` says what is so: passes where prompts go where they are warm, and names what does not hold."""

import json
import re
import shlex
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from stack import paths
from stack.process import free_port
from tls import certificate, tls  # noqa: F401

# A prompt of 2,000 tokens takes half a second where it is cold: far more than a busy machine adds to a warm one.
STACK = {"pod_options": {"kv_tokens": 2_000_000, "prefill_tokens_per_s": 4000, "step_ms": 2}}
SMALL = "--prompts 6 --rounds 3 --sessions 3 --turns 3 --controls 9 --prompt-tokens 2000 --answer-tokens 4".split()


@pytest.fixture(scope="module")
def wiring() -> str:
    """One is enough: to a client both are the same."""
    return "buffered"


class Ran:
    def __init__(self, gateway: str, *options: object):
        command = [paths.SIDECAR, "validate", "--gateway", gateway, *SMALL, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def failed(self) -> list[str]:
        """The thresholds that did not hold."""
        return re.findall(r"^FAIL  (.*?)  ", self.out, re.MULTILINE)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


def test_it_passes_where_prompts_go_where_they_are_warm(stack, tmp_path):
    files = {kind: tmp_path / kind for kind in ("json", "junit", "results")}
    files["results"].mkdir()
    options = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    pods = ",".join(f"http://{pod.address}" for pod in stack.pods)
    ran = Ran(stack.envoy.url, "--model", "sim", "--pods", pods, *options)
    assert (ran.code, ran.failed) == (0, []), ran
    assert ran.out.endswith("\nPASSED\n")

    report = json.loads(files["json"].read_text())
    assert report["passed"] and report["hit_ratio"] > 0.95 and report["ttft_improvement"] > 0.7
    groups = {group["group"]: group for group in report["groups"]}
    assert {name: groups[name]["requests"] for name in ("first", "repeated", "turns", "control")} == {
        "first": 9,
        "repeated": 18,
        "turns": 6,
        "control": 9,
    }
    # As long as asked for, by the pods' own count.
    assert 1900 < groups["control"]["prompt_tokens"] / 9 < 2100
    assert (groups["control"]["cached_tokens"], groups["first"]["cached_tokens"]) == (0, 0)
    # All that the pods counted is what answers told: nobody else is here.
    assert sum(pod["hit_tokens"] for pod in report["pods"]) == report["cached_tokens"] > 0
    assert {pod["pod"] for pod in report["pods"]} == {pod.address for pod in stack.pods}
    assert sum(pod["requests"] for pod in report["pods"]) == 42
    assert report["codes"] == {"200": report["requests"]} and report["remarks"] == []

    suite = ET.parse(files["junit"]).getroot()
    assert (suite.tag, suite.get("failures")) == ("testsuites", "0")
    assert [case.get("name") for case in suite.iter("testcase")] == ["hit ratio", "TTFT improvement", "failed requests"]
    results = {path.name: path.read_text() for path in files["results"].iterdir()}
    assert results == {
        "verdict": "passed",
        "hit-ratio": f"{report['hit_ratio'] * 100:.1f}",
        "ttft-improvement": f"{report['ttft_improvement'] * 100:.1f}",
        "failed-requests": "0",
    }


def test_the_sidecar_tells_what_pods_count_and_the_only_model_needs_no_name(stack, tmp_path):
    ran = Ran(stack.envoy.url, "--sidecar", f"http://{stack.sidecar.http}", "--json", tmp_path / "json")
    assert ran.code == 0, ran
    report = json.loads((tmp_path / "json").read_text())
    assert report["model"] == "sim"
    assert sum(pod["hit_tokens"] for pod in report["pods"]) == report["cached_tokens"] > 0
    assert len(report["pods"]) == len(stack.pods)


def test_the_tekton_task_runs_and_writes_its_results(stack, tmp_path):
    task = yaml.safe_load((paths.ROOT / "deploy" / "tekton" / "task.yaml").read_text())["spec"]
    (step,) = task["steps"]
    given = {"gateway": stack.envoy.url, "model": "sim", "options": SMALL}
    given = {param["name"]: given.get(param["name"], param.get("default")) for param in task["params"]}
    arguments = []
    for argument in step["args"]:
        if argument == "$(params.options[*])":
            arguments += given["options"]
        else:
            argument = re.sub(r"\$\(params\.(.*?)\)", lambda found: given[found[1]], argument)
            arguments.append(argument.replace("/tekton/results", str(tmp_path)))
    ran = subprocess.run([paths.SIDECAR, *arguments], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in tmp_path.iterdir()} == {result["name"] for result in task["results"]}
    assert (tmp_path / "verdict").read_text() == "passed"


def test_no_prompt_is_ever_shown(stack, tmp_path):
    ran = Ran(stack.envoy.url, "--json", tmp_path / "json", "--junit", tmp_path / "junit")
    for text in (ran.out, ran.err, (tmp_path / "json").read_text(), (tmp_path / "junit").read_text()):
        assert not quotes_a_prompt(text)
    with quoting_gateway() as url:
        ran = Ran(url, "--model", "m")
        assert (ran.code, quotes_a_prompt(ran.err)) == (2, False), ran
        assert "status 400" in ran.err


def quotes_a_prompt(text: str) -> bool:
    """Prompts are a hexadecimal word and then short English ones."""
    return re.search(r"[0-9a-f]{16}( [a-z]+){3}", text) is not None


@contextmanager
def quoting_gateway() -> Iterator[str]:
    """Answers with what it was sent, as some servers do with what they refuse."""

    class Quoting(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_error(404)

        def do_POST(self):  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            quoted = body["messages"][0]["content"][:100]
            assert quotes_a_prompt(quoted)
            answer = json.dumps({"error": {"message": f"bad prompt: {quoted}"}}).encode()
            self.send_response(400)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quoting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_it_fails_by_the_hit_ratio_where_nothing_is_steered(wiring, start):
    stack = start.stack(wiring, config={"mode": "off"}, **STACK)
    ran = Ran(stack.envoy.url)
    assert ran.code == 1, ran
    assert "hit ratio" in ran.failed and "failed requests" not in ran.failed
    assert 'docs/troubleshooting.md: "decided but not steered"' in ran.out
    # What was measured holds against a threshold below it.
    assert "hit ratio" not in Ran(stack.envoy.url, "--min-hit-ratio", "10").failed


def test_it_fails_where_a_pod_does(wiring, start, tmp_path):
    stack = start.stack(wiring, **STACK)
    stack.pods[0].behave("status", code=503)
    ran = Ran(stack.envoy.url, "--junit", tmp_path / "junit")
    assert ran.code == 1, ran
    assert "failed requests" in ran.failed
    assert re.search(r"\d+ x status 503", ran.out)
    failures = {case.get("name") for case in ET.parse(tmp_path / "junit").iter("testcase") if case.find("failure") is not None}
    assert failures == set(ran.failed)


def test_without_a_gateway_it_says_so():
    ran = Ran(f"http://127.0.0.1:{free_port()}", "--model", "sim")
    assert (ran.code, ran.out) == (2, "")
    assert "not reached" in ran.err and "refused" in ran.err


def test_without_pods_it_says_so(wiring, start):
    stack = start.stack(wiring, **STACK)
    for pod in stack.pods:
        pod.process.kill()
    stack.wait_for_table(0)
    ran = Ran(stack.envoy.url, "--model", "sim")
    assert (ran.code, ran.out) == (2, "")
    assert "status 503" in ran.err


def test_an_unknown_model_is_answered_by_those_there_are(stack):
    ran = Ran(stack.envoy.url, "--model", "other")
    assert (ran.code, ran.out) == (2, "")
    assert 'no model "other"' in ran.err and ran.err.rstrip().endswith("lists: sim")


@pytest.mark.parametrize(
    "options, says",
    [
        (["--pods", "http://127.0.0.1:1"], "--pods"),
        (["--sidecar", "http://127.0.0.1:1"], "--sidecar"),
        (["--ca", "/nowhere"], "--ca /nowhere"),
        (["--variant", "pod-restart"], "--restart-command"),
        (["--variant", "pod-restart", "--restart-command", "echo no such pod >&2; false"], "no such pod"),
    ],
)
def test_what_keeps_it_from_running_is_named(stack, options, says):
    gateway = stack.envoy.url.replace("http:", "https:") if "--ca" in options else stack.envoy.url
    ran = Ran(gateway, *options)
    assert (ran.code, ran.out) == (2, ""), ran
    assert says in ran.err


def forget(*pods) -> str:
    """A command after which these pods hold nothing, as after a restart."""
    ask = "import sys, urllib.request as u; [u.urlopen(u.Request(a, b'{}')) for a in sys.argv[1:]]"
    return shlex.join([sys.executable, "-c", ask, *(f"http://{pod.address}/debug/reset_cache" for pod in pods)])


def test_after_a_restart_hits_come_back(stack, tmp_path):
    options = ["--variant", "pod-restart", "--restart-command"]
    ran = Ran(stack.envoy.url, *options, forget(stack.pods[0]), "--json", tmp_path / "json")
    assert ran.code == 0, ran
    parts = {part["part"]: part for part in json.loads((tmp_path / "json").read_text())["parts"]}
    assert parts["before"]["missed"] == parts["after"]["missed"] == 0
    # Each prompt that the pod held was computed once more, and six prompts are on three pods.
    never = Ran(stack.envoy.url, *options, forget(*stack.pods), "--recover-within", 0)
    assert (never.code, never.failed) == (1, ["missed since the restart"]), never


def test_a_ramp_shows_each_step(stack, tmp_path):
    ran = Ran(stack.envoy.url, "--variant", "ramp", "--steps", "1,4", "--json", tmp_path / "json")
    assert ran.code == 0, ran
    parts = json.loads((tmp_path / "json").read_text())["parts"]
    assert [(part["part"], part["warm"]["requests"], part["control"]["requests"]) for part in parts] == [
        ("1 in flight", 18, 6),
        ("4 in flight", 24, 8),
    ]
    assert re.search(r"^4 in flight +24 +0 ", ran.out, re.MULTILINE)


def test_a_gateway_behind_tls_is_trusted_by_its_certificate(tls, certificate):
    url, names = tls
    named = ["--host", "gateway.test"]
    ran = Ran(url, *named, "--ca", certificate[1])
    assert ran.code == 0, ran
    assert set(names) == {"gateway.test"}
    stranger = Ran(url, *named)
    assert (stranger.code, stranger.out) == (2, "")
    assert "certificate" in stranger.err
    other_name = Ran(url, "--ca", certificate[1])
    assert other_name.code == 2 and "certificate" in other_name.err
    assert Ran(url, "--insecure").code == 0
