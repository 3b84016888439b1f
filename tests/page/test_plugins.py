"""Several plugins, and many events: what one Envoy in a test does not have. The events are put in the page's way."""

import copy
import json

import pytest
from playwright.sync_api import Page

from conftest import live


def stream(*messages: tuple[str, object]) -> str:
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in messages)


def answered(page: Page, *messages: tuple[str, object]) -> None:
    page.route("**/events", lambda route: route.fulfill(content_type="text/event-stream", body=stream(*messages)))


@pytest.fixture
def two(busy) -> dict:
    status = busy.sidecar.status()
    other = copy.deepcopy(status["views"][0]) | {"plugin": "another", "streams": 0}
    other["traffic"]["hour"]["requests"] = 7
    status["views"].append(other)
    return status


def test_one_of_several_plugins_is_chosen(busy, two, open_page):
    page = open_page(live(busy), before=lambda page: answered(page, ("status", two)))
    assert page.locator("#view option").all_inner_texts() == ["default", "another"]
    assert page.locator("#view option:checked").inner_text() == "default"
    page.get_by_label("Plugin").select_option("another")
    assert page.inner_text("#load-hour").startswith("last hour 7:")
    assert "No Envoy with plugin another is connected" in page.inner_text("#sentence")


def test_dots_have_a_bound_and_figures_do_not(busy, two, open_page):
    pod = two["pods"][0]["address"]
    two["views"][0]["endpoints"] = [e | {"in_flight": 5000} for e in two["views"][0]["endpoints"]]
    about = {"plugin": "default", "endpoint": pod, "t": 0, "peer": False}
    requests = [
        ("requests", [{**about, "id": f"{batch}-{n}", "event": "routed", "reason": "cold"} for n in range(200)])
        for batch in range(20)
    ]
    page = open_page(live(busy), before=lambda page: answered(page, ("status", two), *requests))
    lane = page.locator(".lane", has_text=pod)
    assert lane.locator(".flight .value").inner_text() == "5,000"
    shown = page.evaluate("""async () => {
      const { Dots } = await import('/parts/dots.js');
      const dots = new Dots();
      const canvas = document.createElement('canvas');
      dots.add('a', canvas);
      for (let n = 0; n < 5000; n += 1) dots.take({ id: n, event: 'routed', reason: 'warm' }, 'a');
      return [dots.drawn, dots.requests.size];
    }""")
    assert shown[0] <= 1500 and shown[1] <= 4000
