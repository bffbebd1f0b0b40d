"""The pages for everybody: axe-core finds nothing, light and dark, wide and narrow; and what the first view costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_driver import answered, browser_fixture, keep, say, scripted, server_fixture, settings, watched
from serving import CHAT, HELLO, RunningServer, engine_fixture, post
from test_page_answers import RICH

AXE = Path(__file__).parent / "vendor/axe-core/axe.min.js"
MAX_FIRST_BYTES = 150_000
SIZES = {"wide": (1280, 860), "tablet": (820, 1100), "phone": (390, 844)}

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture()
browser = browser_fixture()


# The extremes; all pairs, and their pictures, with LLAMA4RT_SOAK=1.
VIEWS = [("wide", "light"), ("phone", "dark")]
OTHERS = [("wide", "dark"), ("tablet", "light"), ("tablet", "dark"), ("phone", "light")]


@pytest.fixture(
    params=[*VIEWS, *(pytest.param(view, marks=pytest.mark.soak) for view in OTHERS)], ids="-".join
)
def view(request: pytest.FixtureRequest, browser: Any, server: RunningServer) -> Any:
    size, theme = request.param
    context = browser.new_context(
        viewport=dict(zip(("width", "height"), SIZES[size], strict=True)), color_scheme=theme, bypass_csp=True
    )  # axe-core comes in as a script of the test's own
    context.add_init_script(path=AXE)
    page = watched(context, server)
    page.view = f"{size}-{theme}"
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    assert not page.problems, page.problems
    assert not page.outside, page.outside
    context.close()


def blameless(page: Any, name: str) -> None:
    """No violation of WCAG 2.2 AA or of axe's best practices, nothing wider than the screen."""
    page.wait_for_timeout(250)  # colours fade for an eighth of a second
    found = page.evaluate(
        """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
            (v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160) + " " + n.failureSummary).join("; ")}`)"""
    )
    keep(page, f"{name}-{page.view}")
    assert found == [], f"{name}: {found}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_nothing_stands_in_anybody_s_way(view: Any, server: RunningServer) -> None:
    page = view
    blameless(page, "empty")
    scripted(page, RICH, "A short answer.")
    say(page, "Please tell me about the harmonic series, with a table, two formulas and a program.")
    answered(page)
    page.wait_for_function("() => document.querySelectorAll('.formula .katex').length === 4")
    page.wait_for_selector(".hl-keyword")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes\n"})
    page.wait_for_selector(".chip:has-text('tokens')")
    page.evaluate("document.getElementById('scroll').scrollTo(0, 0)")
    page.hover("article.user")
    blameless(page, "conversation")
    page.click("article.user [aria-label=Edit]")
    box = page.locator(".editor").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
    blameless(page, "editing")
    page.keyboard.press("Escape")
    say(page, "And what is in these notes?")
    answered(page, 2)
    page.unroute("**" + CHAT)
    page.route(
        "**" + CHAT, lambda route: route.fulfill(status=503, json={"error": {"message": "It is full."}})
    )
    say(page, "And now?")
    answered(page, 3)
    blameless(page, "error")
    page.click("#settings")
    blameless(page, "settings")
    page.keyboard.press("Escape")
    page.click("#tools")
    page.locator("dialog button:has-text('Example')").first.click()
    blameless(page, "tools")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    if page.locator("body.with-sidebar").count() == 0:
        page.click("#open-sidebar")
        blameless(page, "sidebar")
        page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    blameless(page, "keyboard")
    for i in range(4):
        post(server, CHAT, HELLO | {"max_tokens": 20 + i, "ignore_eos": True})
    page.goto(server.url + "/status")
    page.wait_for_selector("#throughput .line", state="attached")
    blameless(page, "status")


def test_twice_as_large(browser: Any, server: RunningServer) -> None:
    """At 200 % a window of 1280 pixels has 640; at 400 % it has 320, where nothing may be lost either."""
    context = browser.new_context(viewport={"width": 320, "height": 480})
    page = watched(context, server)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    scripted(page, RICH)
    say(page, "Hello")
    answered(page)
    for width, height in ((640, 430), (320, 480)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for target in ("#send", "#attach", "#open-sidebar", "#settings", "#tools", "#text"):
            box = page.locator(target).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, target
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, target
        settings(page, temperature=1)
    assert not page.problems and not page.outside
    context.close()


def test_what_the_first_view_loads(browser: Any, server: RunningServer) -> None:
    context = browser.new_context()
    page = watched(context, server)
    sizes: dict[str, int] = {}

    def note(response: Any) -> None:
        sizes[response.url.removeprefix(server.url)] = int(response.headers.get("content-length", 0))

    page.on("response", note)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    page.wait_for_load_state("networkidle")
    first = dict(sizes)
    assert sum(first.values()) < MAX_FIRST_BYTES and not any("vendor" in path for path in first)
    requests = scripted(page, "Plain.", "Some `code`, no formula.", "$x$")

    def loaded(wanted: set[str]) -> set[str]:
        """All that has come once these have, and what comes soon after them."""
        for _ in range(400):
            if {path.split("/")[3] for path in sizes if "/vendor/" in path} >= wanted:
                break
            page.wait_for_timeout(50)
        page.wait_for_timeout(200)
        return {path.split("/")[3] for path in sizes if "/vendor/" in path}

    for i, wanted in enumerate(
        [{"marked", "dompurify"}, {"marked", "dompurify"}, {"marked", "dompurify", "katex"}], 1
    ):
        say(page, "Go on")
        answered(page, i)
        assert loaded(wanted) == wanted and len(requests) == i
    assert not page.problems and not page.outside
    context.close()
