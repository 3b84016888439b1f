"""The sentence at the top: what is wrong, and what it may come from. With the page's own code, on statuses as the
sidecar gives them and changed in one respect."""

import copy

import pytest
from stack.stack import Stack

from conftest import live

ASSESS = """async ([status]) => {
  const { assess } = await import('/parts/assess.js');
  return assess(status, status.views[0] ?? null);
}"""


@pytest.fixture(scope="module")
def told(busy: Stack) -> dict:
    """A status of a gateway that is well, with figures that no load of this machine can change."""
    status = busy.sidecar.status()
    status["table"]["age_s"] = 0.4
    for pod in status["pods"]:
        pod["endpoints"][0] |= {"state": "ready", "choosable": True, "running": 2, "waiting": 0}
    traffic = status["views"][0]["traffic"]
    traffic["now"] |= {"span_s": 10, "requests": 100, "steered": 100, "hit_ratio": 0.95, "predicted_hit_ratio": 0.95, "ttft_ms": ttft(70)}
    traffic["hour"] |= {"span_s": 3600, "requests": 36000, "hit_ratio": 0.94, "true_prompt_tokens": 1, "ttft_ms": ttft(72)}
    return status


def ttft(p50: float) -> dict:
    return {"p50": p50, "p90": 10 * p50, "p99": 20 * p50}


def change(status: dict, path: str, value) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        status = status[part]
    status[last] = value


NOW, HOUR = "views.0.traffic.now", "views.0.traffic.hour"
SLOW = {f"{NOW}.ttft_ms": ttft(900)}
CASES = {
    "well": ({}, "ok", "3 pods, all ready; 95 % of prompt tokens from cache; TTFT p50 70 ms"),
    "quiet now": ({f"{NOW}.requests": 0}, "ok", "94 % of prompt tokens from cache; TTFT p50 72 ms, in the last hour"),
    "shadow": ({"views.0.mode": "shadow"}, "note", "Mode shadow"),
    "mode not known": ({"views.0.mode": "shadow", "views.0.config_known": False}, "ok", "3 pods, all ready"),
    "off": ({"views.0.mode": "off"}, "note", "Mode off"),
    "some": ({"views.0.steer_percent": 5.0}, "note", "5 % of requests are steered"),
    "not steered": ({f"{NOW}.steered": 0}, "warn", "None of the last requests was steered"),
    "no table": ({"ready": False, "pods": []}, "warn", "No table yet"),
    "no pods": ({"pods": []}, "bad", "No pods found"),
    "old table": ({"table.age_s": 42.0}, "bad", "The table is 42 s old"),
    "no Envoy": ({"feeds": []}, "bad", "No Envoy is connected"),
    "not this plugin's": ({"views.0.streams": 0}, "bad", "No Envoy with plugin default is connected"),
    "one failing": ({"pods.1.endpoints.0.choosable": False, "pods.1.endpoints.0.state": "failing"}, "warn", "1 of 3 pods failing"),
    "one draining": ({"pods.1.endpoints.0.choosable": False, "pods.1.endpoints.0.state": "draining"}, "note", "1 of 3 pods draining"),
    "not ready": ({"pods.1.endpoints.0.choosable": False, "pods.1.unready": True}, "warn", "1 of 3 pods not ready"),
    "source": ({"sources.0.failing_s": 61.0, "sources.0.error": "refused"}, "warn", "Source not in step for 1 min 1 s"),
    "peer": ({"peers": [{"address": "10.0.0.9:9465", "connected": False, "error": "refused"}]}, "warn", "1 of 1 peer not connected"),
    "no requests": ({f"{HOUR}.requests": 0, f"{NOW}.requests": 0}, "note", "No requests in the last hour"),
    "no true hits": ({f"{HOUR}.true_prompt_tokens": 0}, "warn", "--enable-prompt-tokens-details"),
    "stale": ({f"{NOW}.hit_ratio": 0.4}, "warn", "Fewer hits than predicted: 40 %, not 95 %"),
    "slow": (SLOW, "warn", "TTFT p50 is 900 ms, in the last hour 72 ms"),
    "slow by routing": ({**SLOW, f"{NOW}.hit_ratio": 0.5, f"{NOW}.predicted_hit_ratio": 0.5}, "warn", "Routing: the hit ratio fell"),
    "slow by a pod": ({**SLOW, "pods.2.endpoints.0.waiting": 9}, "warn", "A pod: 9 requests wait at"),
    "slow by load": ({**SLOW, **{f"pods.{n}.endpoints.0.waiting": 5 for n in range(3)}}, "warn", "Load: 15 requests wait over all pods"),
    "slow by rate": ({**SLOW, f"{NOW}.requests": 200}, "warn", "Load: 20.0 requests a second"),
    "slow and neither": (SLOW, "warn", "Neither routing nor queues"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(told, busy, open_page, case):
    changes, level, words = CASES[case]
    status = copy.deepcopy(told)
    for path, value in changes.items():
        change(status, path, value)
    found = open_page(live(busy)).evaluate(ASSESS, [status])
    said = " | ".join([found["sentence"], *(f"{p['text']}. {p['hint']}" for p in found["problems"])]).replace("\xa0", " ")
    assert words in said
    assert found["level"] == level, said


def test_the_worst_comes_first(told, busy, open_page):
    status = copy.deepcopy(told)
    for path, value in {"views.0.mode": "shadow", "sources.0.failing_s": 5.0, "feeds": []}.items():
        change(status, path, value)
    found = open_page(live(busy)).evaluate(ASSESS, [status])
    assert [problem["level"] for problem in found["problems"]] == ["bad", "warn", "note"]
    assert found["sentence"].startswith("No Envoy is connected; ")
