"""`warmpath explain` says where a request would go, and there it goes."""

import json
import subprocess
from dataclasses import dataclass

import pytest
from stack import paths
from stack.client import chat_body
from stack.process import wait_for
from tls import certificate, tls  # noqa: F401

SECRET = "open sesame 1234"
STACK = {"config": {"explain_secret": SECRET}}


@dataclass
class Said:
    code: int
    out: str
    err: str

    def json(self) -> dict:
        return json.loads(self.out)


def explain(body: dict | bytes, *options: object) -> Said:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    command = [paths.SIDECAR, "explain", *map(str, options)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def ways(stack) -> dict[str, list[str]]:
    """Who may be asked."""
    return {
        "sidecar": ["--url", f"http://{stack.sidecar.http}"],
        "gateway": ["--gateway", stack.envoy.url, "--secret", SECRET],
    }


@pytest.fixture(params=["sidecar", "gateway"])
def way(request, stack) -> list[str]:
    wait_for("the sidecar to know the filter", lambda: stack.sidecar.status()["views"])
    return ways(stack)[request.param]


def near(value: int, wanted: str | int) -> bool:
    """Sidecar and filter learn the length of a token from the same answers, but at other moments."""
    return abs(value - int(wanted)) <= 2 + int(wanted) // 50


def test_a_cold_and_a_warm_body_go_where_they_are_explained(stack, client, fresh, way):
    text = fresh()
    for reason in ("cold", "warm"):
        said = explain(chat_body(text), *way, "--json")
        assert said.code == 0, said
        why = said.json()
        answer = client.chat(text)
        stack.wait_until_sidecar_knows()
        assert answer.reason == why["reason"] == reason
        assert answer.pod == why["choice"] == why["endpoints"][0]["address"]
        assert near(why["prompt_tokens"], answer.headers["x-warmpath-prompt-tokens"])
        assert near(why["endpoints"][0]["matched_tokens"], answer.headers["x-warmpath-matched-tokens"])
    assert why["endpoints"][0]["matched_tokens"] > 200


def test_people_are_told_in_a_sentence_and_a_table(stack, client, fresh, way):
    body = chat_body(fresh())
    client.post("/v1/chat/completions", body)
    stack.wait_until_sidecar_knows()
    said = explain(body, *way)
    first, second, _, head, *rows = said.out.splitlines()
    choice = rows[0].split()[0]
    assert first.startswith(f"warm: {choice} holds ") and " tokens and should answer in " in first
    assert second.startswith("chat, model sim, pool all, ")
    assert head.split() == "ENDPOINT STATE CACHED UNCACHED IN FLIGHT WAIT PREFILL PREDICTED TTFT COST WHY".split()
    assert rows[0].endswith("chosen: it holds the most")
    assert all("tokens to compute" in row for row in rows[1:3])
    assert "\x1b" not in said.out
    assert "\x1b[32mready\x1b[0m" in explain(body, *way, "--color", "always").out


@pytest.mark.parametrize(
    ("path", "body", "unread"),
    [
        ("/v1/chat/completions", b'{"model": "sim", "messages": [', "not_json"),
        ("/v1/chat/completions", b"", "empty"),
        ("/v1/embeddings", b'{"model": "sim", "input": "x"}', "no_prefix"),
        ("/v1/completions", b'{"model": "sim", "messages": []}', "no_prompt"),
    ],
)
def test_a_body_that_cannot_be_matched_is_placed_by_load(way, path, body, unread):
    said = explain(body, *way, "--path", path, "--json")
    why = said.json()
    assert (said.code, why["reason"], why["unread"]) == (0, "load_only", unread)
    assert why["choice"] and unread in explain(body, *way, "--path", path).out


def test_a_file_is_read_and_another_api_has_another_warmth(stack, client, fresh, way, tmp_path):
    text = fresh()
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"model": "sim", "prompt": text, "max_tokens": 2}))
    client.post("/v1/completions", file.read_bytes())
    stack.wait_until_sidecar_knows()
    said = explain(b"", *way, "--json", "--path", "/v1/completions", file)
    assert said.json()["reason"] == "warm"
    assert explain(chat_body(text), *way, "--json", "-").json()["reason"] == "cold"


def test_who_may_not_ask_or_asks_amiss_is_told_why(stack, way):
    gateway = "--gateway" in way
    if gateway:
        said = explain(chat_body("x"), *way[:2], "--secret", "another secret 12")
        assert (said.code, said.out) == (2, "") and "403" in said.err and "secret" in said.err
        said = explain(chat_body("x"), "--gateway", f"http://{stack.pods[0].address}", "--secret", SECRET)
        assert said.code == 2 and "not by a filter" in said.err
    else:
        said = explain(chat_body("x"), *way, "--path", "/v1/models")
        assert said.code == 2 and "400" in said.err and "untouched" in said.err
        said = explain(chat_body("x"), *way, "--plugin", "another")
        assert said.code == 2 and "404" in said.err and "default" in said.err
    said = explain(chat_body("x"), way[0], "http://127.0.0.1:1", *way[2:])
    assert said.code == 2 and "127.0.0.1:1" in said.err
    said = explain(b"", *way, "/nowhere/body.json")
    assert said.code == 2 and "/nowhere/body.json" in said.err


def test_a_body_is_read_up_to_its_limit(stack, fresh):
    way = ways(stack)["sidecar"]
    said = explain(chat_body("x" * (17 << 20)), *way)
    assert said.code == 2 and "413" in said.err and "16 MiB" in said.err
    assert explain(chat_body(fresh() + "x" * (15 << 20)), *way, "--json").code == 0


def test_a_gateway_behind_tls_is_asked_as_validate_asks(stack, tls, certificate, fresh):
    url, names = tls
    asked = ["--gateway", url, "--secret", SECRET, "--json"]
    named = explain(chat_body(fresh()), *asked, "--host", "gateway.test", "--ca", certificate[1])
    assert (named.code, set(names)) == (0, {"gateway.test"}), named
    stranger = explain(chat_body(fresh()), *asked, "--host", "gateway.test")
    assert stranger.code == 2 and "certificate" in stranger.err
    assert explain(chat_body(fresh()), *asked, "--insecure").code == 0


def test_when_all_pods_fail_nobody_is_chosen(wiring, start, fresh):
    stack = start.stack(wiring, pods=2, **STACK)
    for pod in stack.pods:
        pod.process.kill()
    wait_for("all to be out", lambda: stack.envoy.stats()["endpoints_choosable"] == 0)
    for way in ways(stack).values():
        said = explain(chat_body(fresh()), *way, "--json")
        why = said.json()
        assert (said.code, why["reason"], why["choice"]) == (1, "fallback", None)
        assert [(e["order"], e["excluded"]) for e in why["endpoints"]] == [(None, "failing")] * 2
        said = explain(chat_body(fresh()), *way)
        assert said.code == 1 and said.out.startswith("fallback: no endpoint may be chosen")
    done = subprocess.run([paths.SIDECAR, "status", "--url", f"http://{stack.sidecar.http}"], capture_output=True)
    assert done.returncode == 1


def test_the_sidecar_explains_by_the_plugins_own_configuration(wiring, start, fresh):
    config = {"path_prefix": "/llm", "mode": "shadow", "pools": [{"name": "default"}, {"name": "p", "models": ["m"]}]}
    stack = start.stack(wiring, config=config, pods=2)
    view = wait_for("the view", lambda: stack.sidecar.status()["views"])[0]
    assert (view["config_known"], view["mode"], view["steer_percent"]) == (True, "shadow", 100.0)
    url = ["--url", f"http://{stack.sidecar.http}", "--path", "/llm/v1/chat/completions"]
    why = explain(chat_body(fresh()), *url, "--json").json()
    assert (why["pool"], why["mode"], why["reason"]) == ("default", "shadow", "cold")
    assert "mode is shadow" in explain(chat_body(fresh()), *url).out
    said = explain(chat_body(fresh(), model="m"), *url, "--json")
    assert (said.code, said.json()["pool"]) == (1, "p")
    assert {e["excluded"] for e in said.json()["endpoints"]} == {"other pool"}
    assert explain(chat_body(fresh()), *url[:2]).code == 2, "a path without the prefix is none of ours"


BEYOND = """
ip link set lo up
%(sidecar)s sidecar --endpoints %(file)s --http-listen 0.0.0.0:9464 --feed-listen 127.0.0.1:9465 %(option)s \\
    >%(log)s 2>&1 &
trap 'kill $!' EXIT
until [ -s %(log)s ]; do kill -0 $! || exit 9; done
%(sidecar)s explain </dev/null
%(sidecar)s explain --token 'open sesame' </dev/null
"""


@pytest.mark.parametrize("option", ["", "--explain-token 'open sesame'"], ids=["no token", "token"])
def test_beyond_loopback_a_sidecar_wants_a_token(tmp_path, option):
    """In a network of its own, where it is reached by nobody."""
    (tmp_path / "endpoints.json").write_text('{"pools": []}')
    names = {"sidecar": paths.SIDECAR, "file": tmp_path / "endpoints.json", "log": tmp_path / "log", "option": option}
    command = ["unshare", "-Urn", "bash", "-c", BEYOND % names]
    if subprocess.run([*command[:2], "true"], capture_output=True).returncode != 0:
        pytest.skip("no network namespace: unshare is not permitted here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    first, second = done.stderr.splitlines()
    assert "403" in first and "--explain-token" in first
    # Past the guard there is nobody to explain anything.
    assert ("404" in second and "no Envoy" in second) if option else ("403" in second and "tell how warm" in second)
