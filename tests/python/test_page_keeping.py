"""The chat page where something is in the way: a key, a reload while it answers, no storage, several models."""

from __future__ import annotations

from typing import Any

import pytest
from page_driver import (
    answered,
    browser_fixture,
    endlessly,
    page_fixture,
    say,
    scripted,
    server_fixture,
    watched,
)
from serving import RunningServer, engine_fixture

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture(api_keys=("secret",), served_model_names=("one", "two"))
browser = browser_fixture()
page = page_fixture()


@pytest.fixture
def known(page: Any) -> Any:
    """A page that has the key."""
    page.click("#settings")
    page.fill("dialog #key", "secret")
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")
    page.wait_for_function("() => document.getElementById('model').options.length === 2")
    return page


def test_a_key_is_asked_for_and_the_text_stays(page: Any) -> None:
    page.wait_for_selector(".toast:has-text('API key')")
    say(page, "Hello")
    answered(page)
    assert "API key" in page.inner_text(".note.error")
    page.click("text=Give a key")
    page.fill("dialog #key", "secret")
    page.fill("dialog #max_completion_tokens", "5")
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")
    page.click("text=Try again")
    page.wait_for_function("() => document.querySelector('article.assistant > .text')?.textContent")
    assert answered(page)[0] and page.locator("article.user").count() == 1


def test_the_chosen_model_answers(known: Any) -> None:
    page = known
    requests = scripted(page, "Fine.")
    say(page, "Hello")
    answered(page)
    page.select_option("#model", "two")
    say(page, "Hello again")
    answered(page, 2)
    assert [request.get("model") for request in requests] == [None, "two"]
    page.reload()
    page.wait_for_function("() => document.getElementById('model').value === 'two'")


def test_a_reload_while_it_answers(known: Any, server: RunningServer) -> None:
    """What was there is there again, and can be continued; the request has ended with the page."""
    page = known
    endlessly(page)
    say(page, "Count")
    page.wait_for_function("() => document.querySelector('article.assistant .text')?.textContent.length > 20")
    page.wait_for_timeout(2000)  # what is being written is kept every one and a half seconds
    page.reload()
    page.wait_for_selector("article.assistant .block")
    server.wait_idle()
    assert len(answered(page)[0]) > 20
    assert page.inner_text("article.assistant .note").startswith("stopped")
    assert page.locator("[aria-label=Continue]").count() == 1


def test_a_browser_that_keeps_nothing(browser: Any, server: RunningServer) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } });"
        "for (const name of ['localStorage', 'sessionStorage'])"
        "  Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    page = watched(context, server)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    scripted(page, "First.", "Second.")
    say(page, "One")
    answered(page)
    page.click("#fresh")
    say(page, "Two")
    assert answered(page) == ["Second."]
    page.click("#chats button.chat:has-text('One')")
    page.wait_for_selector("article.user:has-text('One')")
    assert answered(page) == ["First."]
    page.click("#settings")
    assert "keeps nothing" in page.inner_text("dialog")
    assert not page.problems and not page.outside
    context.close()


def test_two_tabs(known: Any, server: RunningServer) -> None:
    """A chat that goes on in one tab goes on in the other that shows it."""
    page = known
    scripted(page, "First.", "Second.")
    say(page, "One")
    answered(page)
    other = watched(page.context, server)
    other.goto(server.url)
    other.click("#chats .chat")
    assert answered(other) == ["First."]
    say(page, "Two")
    answered(page, 2)
    assert answered(other, 2) == ["First.", "Second."]
    assert not other.problems and not other.outside
    other.close()
