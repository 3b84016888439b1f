"""The page follows what happens at the gateway."""

import json
import re
import urllib.error
import urllib.request
from http.client import HTTPConnection

import pytest
from stack.client import Client, chat_body
from stack.process import wait_for
from stack.sidecar import Sidecar

from browser import until
from conftest import MODEL, live, traffic


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def test_its_files_go_with_a_strict_policy_and_are_asked_for_again_only_when_they_changed(busy):
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("parts/dots.js", "text/javascript")):
        with urllib.request.urlopen(live(busy) + path) as answer:
            headers = answer.headers
        assert headers["content-type"].startswith(kind)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-cache"
        again = urllib.request.Request(live(busy) + path, headers={"if-none-match": headers["etag"]})
        with pytest.raises(urllib.error.HTTPError) as not_modified:
            urllib.request.urlopen(again)
        assert not_modified.value.code == 304


def test_its_figures_are_those_of_the_status_page(busy, open_page):
    page = open_page(live(busy))
    # What grows: between two looks at /status.
    counts = (
        ("document.querySelector('#load-hour').textContent.split(':')[0]", lambda hour: hour["requests"]),
        ("document.querySelector('#reasons .value').textContent.split(' (')[0]", lambda hour: hour["reasons"]["warm"]),
    )
    for shown, told in counts:
        before = told(traffic(busy)["hour"])
        least = wait_for("more requests", lambda: (now := told(traffic(busy)["hour"])) > before and now)
        until(page, f"least => Number({shown}.replace(/\\D/g, '')) >= least", arg=least)
        assert number(page.evaluate(shown)) <= told(traffic(busy)["hour"])
    ratio = traffic(busy)["hour"]["hit_ratio"]
    shown = float(re.search(r"last hour ([\d.]+)", page.inner_text("#hits-hour"))[1])
    assert abs(shown - ratio * 100) < 2
    assert "%" in page.inner_text("#hits-now") and "ms" in page.inner_text("#ttft-now")
    assert re.match(r"3 pods, all ready; [\d.]+\s% of prompt tokens from cache; TTFT p50 ", page.inner_text("#sentence"))
    for chart in ("#chart-hits", "#chart-ttft", "#chart-load"):
        until(page, f"document.querySelector('{chart} path.line, {chart} path.bars').getAttribute('d')")
    assert page.locator("#prefixes tbody tr").count() >= 1
    states = {(pod["name"] or pod["address"]): "ready" for pod in busy.sidecar.status()["pods"]}
    lanes = page.locator(".lane:not(.head)").all()
    assert {lane.locator(".pod .value").inner_text(): lane.locator(".state").inner_text() for lane in lanes} == states


# Coloured pixels in all lanes; the line in the middle of a lane is grey.
DOTS = """() => [...document.querySelectorAll('.track canvas')].reduce((sum, canvas) => {
  const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200 && Math.abs(data[i] - data[i + 2]) > 60) sum += 1;
  return sum;
}, 0)"""


def test_a_request_is_a_dot_in_the_lane_of_its_pod_and_leaves_when_it_is_over(start, open_page):
    stack = start(pods=2)
    page = open_page(live(stack))
    assert "No traffic yet" in page.inner_text("#empty")
    assert page.evaluate(DOTS) == 0
    for pod in stack.pods:
        pod.behave("hang_mid_stream")
    connection = HTTPConnection(stack.envoy.url.removeprefix("http://"))
    body = json.dumps(chat_body("hello " * 200, model=MODEL, stream=True))
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    choice = connection.getresponse().headers["x-warmpath-choice"]
    until(page, f"({DOTS})() > 20")
    lane = page.locator(".lane", has_text=choice)
    until(page, "lane => lane.querySelector('.flight .value').textContent === '1'", arg=lane.element_handle())
    assert page.locator("#empty").is_hidden()
    connection.close()
    until(page, f"({DOTS})() === 0")


def test_a_pod_that_dies_is_said_within_seconds_and_so_is_its_return(start, open_page):
    stack = start()
    page = open_page(live(stack))
    until(page, "document.querySelector('#sentence').textContent === '3 pods, all ready.'")
    dead = stack.pods[1]
    dead.process.kill()
    until(page, "document.querySelector('#strip').dataset.level === 'warn'", timeout=10)
    assert page.inner_text("#sentence").startswith(f"1 of 3 pods failing: {dead.address}")
    assert page.inner_text("#said").startswith("1 of 3 pods failing")
    lane = page.locator(".lane", has_text=dead.address)
    assert lane.get_attribute("data-state") == "failing"
    assert page.title().startswith("! 1 of 3 pods failing")
    dead.process.restart()
    until(page, "document.querySelector('#sentence').textContent.startsWith('3 pods, all ready')")
    assert lane.get_attribute("data-state") == "ready"


def test_without_an_envoy_it_says_so(tmp_path, open_page):
    sidecar = Sidecar(tmp_path, ["127.0.0.1:1"]).ready()
    try:
        page = open_page(f"http://{sidecar.http}/")
        until(page, "document.querySelector('#strip').dataset.level === 'bad'")
        assert page.inner_text("#sentence") == "No pod may be chosen."
        assert "No Envoy is connected." in page.inner_text("#problems")
        assert "Once an Envoy with the filter connects" in page.inner_text("#empty")
    finally:
        sidecar.stop()


def test_it_comes_back_after_the_sidecar_was_restarted(start, open_page):
    stack = start(pods=2)
    page = open_page(live(stack), fails=True)
    until(page, "document.querySelector('#link').textContent === 'live'")
    stack.sidecar.process.kill()
    until(page, "document.querySelector('#link').dataset.state === 'lost'")
    assert "connection lost" in page.inner_text("#link")
    stack.sidecar.process.start()
    until(page, "document.querySelector('#link').textContent === 'live'")
    until(page, "document.querySelector('#sentence').textContent === '2 pods, all ready.'")
    Client(stack.envoy.url).chat("after the restart", model=MODEL)
    until(page, "document.querySelector('#load-hour').textContent.startsWith('last hour 1:')")
