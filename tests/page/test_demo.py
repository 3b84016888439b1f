"""The page of `make demo KEEP=1`: the switch changes the gateway while requests go on."""

from collections import Counter

import pytest
from demo_page import DemoPage, Switch
from stack.client import Client
from stack.load import Load, Recorded
from stack.process import wait_for

from browser import until
from conftest import MODEL, PODS


@pytest.fixture
def demo(start, tmp_path):
    stack = start(pods=2, pod_options={**PODS, "instant": True}, live=True, fallback="round_robin")
    page = DemoPage(Switch(stack.envoy, {"debug_headers": True}), stack.sidecar)
    # Its connections are kept: they, too, must meet the new configuration.
    load = Recorded(tmp_path, stack.envoy.url, "--speed", "40")
    try:
        yield stack, page
    finally:
        load.stop()
        page.stop()


def answered(page: DemoPage, policy: str) -> int:
    return page.state()["figures"][policy]["requests"]


def test_the_switch_goes_there_and_back_without_a_failed_request(demo, browser):
    stack, page = demo
    client = Client(stack.envoy.url)
    tab = browser.new_page()
    tab.goto(page.url)
    with Load(lambda: client.chat("the same beginning " * 60, model=MODEL), threads=1, pause=0.05) as load:
        wait_for("answers by warmpath", lambda: answered(page, "warmpath") > 20)
        load.wait(10)
        assert len({answer.pod for answer in load.answers[-10:]}) == 1

        tab.get_by_label("round robin").check(force=True)
        until(tab, "document.querySelector('tr[aria-current] th').textContent === 'round robin'")
        assert stack.envoy.stats()["mode"] == 1
        before = len(load.answers)
        load.wait(20)
        now = load.answers[before:]
        assert {answer.headers["x-warmpath-steered"] for answer in now} == {"false"}
        assert min(Counter(answer.pod for answer in now).values()) >= 5
        wait_for("answers by round robin", lambda: answered(page, "round robin") > 20)
        # Nothing is steered any more, on kept connections either.
        steered = answered(page, "warmpath")
        done = answered(page, "round robin")
        wait_for("more answers", lambda: answered(page, "round robin") > done + 50)
        assert answered(page, "warmpath") <= steered + 1

        tab.get_by_label("warmpath").check(force=True)
        until(tab, "document.querySelector('tr[aria-current] th').textContent === 'warmpath'")
        load.wait(5)
        assert load.answers[-1].headers["x-warmpath-steered"] == "true"
        wait_for("answers by warmpath", lambda: answered(page, "warmpath") > 20)
    figures = page.state()["figures"]["warmpath"]
    assert 0 < figures["hit_ratio"] <= 1 and figures["ttft_p50_ms"] <= figures["ttft_p90_ms"]
    # The live page is in the frame, which its policy allows to a page of this machine.
    frame = tab.frame_locator("iframe")
    frame.locator("#sentence", has_text="2 pods, all ready").wait_for()
    tab.close()


def test_only_what_the_page_sends_is_taken(demo):
    _, page = demo
    client = Client(page.url.rstrip("/"))
    assert client.send("POST", "/switch", '{"to": "round robin"}', {"content-type": "text/plain"}).status == 400
    assert client.post("/switch", {"to": "chaos"}).status == 400
    assert client.post("/switch", b"[").status == 400
    assert page.state()["policy"] == "warmpath"
