"""A gateway under load with its live page, for all tests that only look. Tests that break something start their own."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, Page  # noqa: E402
from stack.load import Recorded  # noqa: E402
from stack.process import wait_for  # noqa: E402
from stack.stack import Stack  # noqa: E402

from browser import NoChromium, chromium, complaints  # noqa: E402

MODEL = "Qwen/Qwen3-32B"
# So large that nothing is evicted, so that what was sent once is warm.
PODS = {"model": MODEL, "kv_tokens": 400_000}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with ExitStack() as ends:
        try:
            yield ends.enter_context(chromium())
        except NoChromium as none:
            pytest.skip(str(none))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts stacks that end with the test."""
    with ExitStack() as ends:

        def stack(**options) -> Stack:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            return ends.enter_context(Stack(folder, **{"pods": 3, "pod_options": PODS, **options}))

        yield stack


@pytest.fixture(scope="session")
def busy(tmp_path_factory) -> Iterator[Stack]:
    """A stack under load, which has told the first true hits."""
    folder = tmp_path_factory.mktemp("busy")
    with Stack(folder, pods=3, pod_options=PODS) as stack:
        load = Recorded(folder, stack.envoy.url, "--speed", "6")
        try:
            wait_for("true hits", lambda: traffic(stack)["hour"]["hit_ratio"], timeout=60, every=0.2)
            yield stack
        finally:
            load.stop()


def traffic(stack: Stack) -> dict:
    (view,) = stack.sidecar.status()["views"]
    return view["traffic"]


class Open:
    """Opens pages. Each must stay free of errors and of what its policy forbids, unless it is said to `fail`."""

    def __init__(self, browser: Browser, ends: ExitStack):
        self.browser, self.ends = browser, ends
        self.pages: list[tuple[Page, list[str]]] = []

    def __call__(self, url: str, *, fails: bool = False, before: Callable[[Page], None] | None = None, **context) -> Page:
        page = self.ends.enter_context(self.browser.new_context(**context)).new_page()
        page.set_default_timeout(15_000)
        found = complaints(page)
        if before:
            before(page)
        page.goto(url)
        page.wait_for_selector("#main:visible")
        if not fails:
            self.pages.append((page, found))
        return page

    def check(self) -> None:
        for page, found in self.pages:
            assert found == [], page.url


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    with ExitStack() as ends:
        pages = Open(browser, ends)
        yield pages
        pages.check()


def live(stack: Stack) -> str:
    return f"http://{stack.sidecar.http}/"
