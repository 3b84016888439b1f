"""`make screenshots`: docs/images/page-*.png, of the real page on a gateway under the recorded workload."""

import sys
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Browser, Locator, Page  # noqa: E402
from stack.client import Client  # noqa: E402
from stack.load import Load, Recorded  # noqa: E402
from stack.paths import ROOT  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.stack import Stack  # noqa: E402

from browser import NoChromium, chromium, until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MODEL = "Qwen/Qwen3-32B"
PODS = {"model": MODEL, "kv_tokens": 26_000, "prefill_tokens_per_s": 16_000, "step_ms": 30}
WIDE = {"width": 1200, "height": 1040}
# What its prompt is about does not matter, but that it is ours to show.
PROMPT = "What follows is the documentation of a router. Where are prompts cut?\n\n" + (ROOT / "docs/architecture.md").read_text()
LARGEST = 200_000


def opened(browser: Browser, stack: Stack, **context) -> Page:
    page = browser.new_context(**{"viewport": WIDE, **context}).new_page()
    page.goto(f"http://{stack.sidecar.http}/")
    page.wait_for_selector("#main:visible")
    until(page, "document.querySelector('#chart-load path.bars').getAttribute('d')")
    # Dots of what comes from now on: until enough have come.
    until(page, "[...document.querySelectorAll('.flight .value')].filter((e) => Number(e.textContent) > 2).length >= 2")
    page.wait_for_timeout(3000)
    return page


def shoot(name: str, part: Page | Locator) -> None:
    file = IMAGES / f"page-{name}.png"
    part.screenshot(path=file)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}  {size // 1000} KB")
    assert size < LARGEST, f"{file}: {size} bytes"


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ends:
        browser = ends.enter_context(chromium())
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="warmpath-shots-")))
        stack = ends.enter_context(Stack(folder, pods=4, pod_options=PODS))
        client = Client(stack.envoy.url)
        ends.callback(Recorded(folder, stack.envoy.url, "--speed", "14").stop)
        # Beside it prompts that nobody has cached, so that there are several kinds of dots.
        news = Load(lambda: client.chat(f"{uuid.uuid4()} {'once more ' * 900}", model=MODEL), threads=1, pause=0.3)
        with news:
            wait_for("a minute and a half of traffic", lambda: enough(stack), timeout=180, every=0.5)
            shoot("light", opened(browser, stack))
            shoot("dark", opened(browser, stack, color_scheme="dark"))
            shoot("phone", opened(browser, stack, viewport={"width": 390, "height": 1560}))
            page = opened(browser, stack)
            until(page, "document.querySelector('#explain-model').value")
            page.fill("#prompt", PROMPT)
            page.evaluate("document.querySelector('#prompt').scrollTop = 0")
            client.chat(PROMPT, model=MODEL)
            page.click("#explain button")
            page.wait_for_selector("#explained .verdict")
            shoot("explain", page.locator("section", has=page.locator("#explain")))
        page = opened(browser, stack, viewport={"width": 1200, "height": 780})
        stack.pods[2].process.kill()
        until(page, "document.querySelector('#strip').dataset.level === 'warn'")
        page.wait_for_timeout(1500)
        shoot("pod-down", page)


def enough(stack: Stack) -> bool:
    views = stack.sidecar.status()["views"]
    return bool(views) and len(views[0]["traffic"]["series"]) >= 9


if __name__ == "__main__":
    try:
        main()
    except NoChromium as none:
        sys.exit(str(none))
