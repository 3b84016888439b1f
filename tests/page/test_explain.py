"""The box tells what the gateway then does, and keeps nothing."""

import json

from playwright.sync_api import Page
from stack.client import Client, chat_body

from browser import until
from conftest import MODEL, live

STORED = """async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href,
  (await indexedDB.databases()).length, history.state])"""


def explain(page: Page, text: str) -> str:
    """What it says of a prompt."""
    page.evaluate("document.querySelector('#explained').replaceChildren()")
    page.fill("#prompt", text)
    page.click("#explain button")
    return page.locator("#explained .verdict, #explained .refusal").inner_text().strip()


def test_it_names_the_pod_that_the_gateway_then_chooses(start, open_page):
    stack = start()
    client, page = Client(stack.envoy.url), open_page(live(stack))
    until(page, "document.querySelector('#explain-model').value")
    for number in range(4):
        text = f"story {number}: " + "once upon a time there was a fox " * 120
        first = client.chat(text, model=MODEL)
        stack.wait_until_sidecar_knows()
        # Typed as it is, and as the whole body.
        asked = chat_body(text + " and then?", model=MODEL)
        for typed in (asked["messages"][0]["content"], json.dumps(asked)):
            verdict = explain(page, typed)
            assert verdict.startswith(f"{first.headers['x-warmpath-choice']}, warm"), verdict
        rows = page.locator("#explained tbody tr")
        assert rows.count() == 3
        chosen = rows.nth(0).locator("td").all_inner_texts()
        matched = int(chosen[2].split("(")[0].replace(",", ""))
        then = client.post("/v1/chat/completions", asked)
        assert then.reason == "warm"
        assert then.headers["x-warmpath-choice"] == chosen[1]
        assert int(then.headers["x-warmpath-matched-tokens"]) == matched > 500


def test_what_is_typed_is_kept_nowhere(start, open_page):
    stack = start(pods=1)
    page = open_page(live(stack))
    until(page, "document.querySelector('#explain-model').value")
    before = page.evaluate(STORED)
    assert "no_secret_here" not in explain(page, "no_secret_here " * 50)
    assert page.evaluate(STORED) == before
    page.reload()
    page.wait_for_selector("#main:visible")
    assert page.input_value("#prompt") == ""
    assert "no_secret_here" not in stack.sidecar.log() + stack.sidecar.get("/status") + stack.sidecar.get("/metrics")


def test_what_cannot_be_explained_is_said(start, open_page):
    stack = start(pods=1)
    page = open_page(live(stack))
    until(page, "document.querySelector('#explain-model').value")
    assert "load_only" in explain(page, "{ no json")
    assert "could not be matched: not json" in page.inner_text("#explained")


def test_a_sidecar_that_others_reach_asks_for_its_token(tmp_path, start, open_page):
    stack = start(pods=1)
    # The same port for others, as in a cluster: it serves the page, and explains to who knows the token.
    port = stack.sidecar.http.rsplit(":", 1)[1]
    stack.sidecar.process.stop()
    command = stack.sidecar.process.command
    command[command.index("--http-listen") + 1] = f"0.0.0.0:{port}"
    stack.sidecar.process.command = [*command, "--explain-token", "sesame"]
    stack.sidecar.process.start()
    stack.sidecar.ready()
    page = open_page(live(stack), fails=True)
    until(page, "document.querySelector('#explain-model').value")
    assert "--explain-token" in explain(page, "hello")
    page.fill("#explain-token", "sesame")
    # Envoy has found the new sidecar.
    until(page, "document.querySelector('#strip').dataset.level === 'note'")
    assert "127.0.0.1:" in explain(page, "hello")
