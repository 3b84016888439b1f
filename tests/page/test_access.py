"""The page can be read by everybody: small, dark, without a mouse, without motion."""

import pytest
from stack.process import wait_for
from stack.sidecar import Sidecar

from browser import overflow, until
from conftest import live

PHONE = {"width": 390, "height": 844}

# Contrast by WCAG 2 of every text that can be seen: the text and its ratio, where it is too low.
TOO_PALE = """() => {
  const numbers = (colour) => {
    const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(numbers(style.color)), light(ground(node))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) found.push(`${walk.currentNode.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return [seen, found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(busy, open_page, scheme):
    page = open_page(live(busy), color_scheme=scheme)
    until(page, "document.querySelector('#explain-model').value")
    page.fill("#prompt", "hello")
    page.click("#explain button")
    page.wait_for_selector("#explained .verdict")
    # Also what is seen only when something is wrong.
    for level in ("ok", "warn", "bad"):
        page.evaluate("""level => {
          const item = document.querySelector('#problems').appendChild(document.createElement('li'));
          Object.assign(item, { textContent: `${level}: a problem` }).dataset.level = level;
          document.querySelector('.lane:not(.head)').dataset.state = { ok: 'ready', warn: 'draining', bad: 'failing' }[level];
          document.querySelector('#parts > div').dataset.level = level;
        }""", level)
        seen, pale = page.evaluate(TOO_PALE)
        assert seen > 80
        assert pale == []
    grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (grounds == "rgb(21, 19, 17)") == (scheme == "dark")


def test_signs_and_states_have_contrast_with_what_is_behind_them(busy, open_page):
    """3 : 1, as WCAG asks of graphics."""
    for scheme in ("light", "dark"):
        page = open_page(live(busy), color_scheme=scheme)
        page.evaluate("""() => {
          for (const name of ['warm', 'spill', 'spread', 'cold', 'load_only', 'pinned', 'shed', 'fallback']) {
            const text = document.querySelector('.card').appendChild(document.createElement('div'));
            text.textContent = `sign ${name}`;
            text.style.cssText = `color: var(--reason-${name}); background: var(--soft); font-size: 24px`;
          }
        }""")
        seen, pale = page.evaluate(TOO_PALE)
        assert seen > 80 and pale == [], scheme


@pytest.mark.parametrize("pods", [3, 120])
def test_nothing_is_wider_than_the_window(busy, tmp_path, open_page, pods):
    address = live(busy)
    if pods > 3:
        sidecar = Sidecar(tmp_path, [f"127.0.0.1:{port}" for port in range(1, pods + 1)]).ready()
        address = f"http://{sidecar.http}/"
    try:
        for size in (PHONE, {"width": 860, "height": 600}, {"width": 1280, "height": 800}):
            page = open_page(address, viewport=size)
            until(page, "n => document.querySelectorAll('.lane').length === n + 1", arg=pods)
            until(page, "document.querySelector('#explain-path').value")
            if pods == 3:
                page.fill("#prompt", "a very long word: " + "x" * 400)
                page.click("#explain button")
                page.wait_for_selector("#explained .verdict")
            assert overflow(page) == 0, size
            # The rest of the page is not below a hundred lanes.
            assert page.locator("#pods-card").bounding_box()["height"] < 3000
    finally:
        if pods > 3:
            sidecar.stop()


def test_it_works_by_keyboard_and_the_focus_is_seen(busy, open_page):
    page = open_page(live(busy))
    until(page, "document.querySelector('#chart-hits path.line').getAttribute('d')")
    until(page, "document.querySelector('#explain-model').value")
    visited = []
    for _ in range(20):
        page.keyboard.press("Tab")
        name, outline = page.evaluate("""() => {
          const at = document.activeElement;
          const label = at.getAttribute('aria-label') ?? at.id ?? '';
          return [label || at.textContent, getComputedStyle(at).outlineStyle];
        }""")
        if name in visited:
            break
        visited.append(name)
        assert outline != "none", name
        if name == "Hit ratio over time":
            page.keyboard.press("End")
            last = page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
            assert "true " in last and "%" in last and last.count(":") == 2
            assert last.split(", ")[1:] == page.inner_text("#chart-hits figcaption").split("\n")[1:]
            page.keyboard.press("Home")
            wait_for("the first value", lambda: page.evaluate("document.activeElement.getAttribute('aria-valuenow')") == "0")
        if name == "prompt":
            page.keyboard.type("hello")
            page.keyboard.press("Control+Enter")
            page.wait_for_selector("#explained .verdict")
        if name == "Explain":
            break
    assert visited[0] == "To the pods"
    assert {"Hit ratio over time", "TTFT over time", "Requests a second over time", "prompt", "Explain"} <= set(visited)


def test_every_control_and_picture_has_a_name(busy, open_page):
    page = open_page(live(busy))
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, select, textarea, input, [role=slider], img, canvas, svg')]
      .filter((e) => !e.closest('[aria-hidden=true]') && !e.labels?.length && !e.textContent.trim()
        && e.getAttribute('aria-label') === null && e.getAttribute('alt') === null)
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == []
    assert page.locator("[role=table] > [role=row] > [role=columnheader]").count() == 9


FRAMES = """window.frames_drawn = 0;
const ask = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => ask((now) => { window.frames_drawn += 1; draw(now); });"""


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_without_motion_dots_are_where_they_belong_at_once(busy, open_page, motion):
    page = open_page(live(busy), before=lambda page: page.add_init_script(FRAMES), reduced_motion=motion)
    moved = "document.querySelector('#load-hour').textContent"
    first = page.evaluate(moved)
    until(page, f"first => {moved} !== first", arg=first)
    # While eleven statuses and batches of requests come, at most one frame for each of them, or one after another.
    batches = page.evaluate("""() => new Promise((done) => {
      const before = window.frames_drawn;
      let batches = 0;
      const source = new EventSource('events');
      source.addEventListener('requests', () => { batches += 1; if (batches === 20) { source.close(); done([batches, window.frames_drawn - before]); } });
    })""")
    seen, frames = batches
    assert frames <= 2 * seen if motion == "reduce" else frames > 2 * seen
