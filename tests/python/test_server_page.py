"""The chat page in headless Chromium, as a person uses it: asking, stopping, what goes wrong; other sites' pages."""

from __future__ import annotations

import base64
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from llama4rt import Engine
from llama4rt.demo import load_showcase
from page_driver import (
    answered,
    browser_fixture,
    endlessly,
    keep,
    offline,
    page_fixture,
    say,
    scripted,
    server_fixture,
    settings,
)
from serving import RunningServer, engine_fixture, running_server

engine = engine_fixture(kv_cache_memory="128MiB")
server = server_fixture()
browser = browser_fixture()
page = page_fixture()


def test_a_conversation(page: Any, engine: Engine) -> None:
    settings(page, temperature=0, max_completion_tokens=60)
    say(page, "Hello")
    first = offline(engine, [{"role": "user", "content": "Hello"}])
    assert answered(page) == [first]
    assert "tokens" in page.locator("article.assistant .note").inner_text()
    say(page, "What can you do?")
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "What can you do?"},
    ]
    assert answered(page, 2)[1] == offline(engine, messages)
    keep(page, "conversation")
    page.click("#fresh")
    assert page.locator("article").count() == 0


def test_a_picture_by_drag_and_drop(page: Any, engine: Engine) -> None:
    picture = load_showcase().pictures[0]
    settings(page, temperature=0, max_completion_tokens=60, theme="dark")
    drop = """([data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "scene.png", { type: "image/png" }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [base64.b64encode(picture.path.read_bytes()).decode()])
    page.wait_for_selector("#pending img")
    say(page, picture.questions[0].question)
    content = [
        {"type": "image", "path": str(picture.path)},
        {"type": "text", "text": picture.questions[0].question},
    ]
    assert answered(page) == [offline(engine, [{"role": "user", "content": content}])]
    assert page.locator("article.user img").count() == 1 and page.locator("#pending img").count() == 0
    keep(page, "picture-dark")


def test_stop_with_numbers(page: Any, server: RunningServer) -> None:
    endlessly(page)
    say(page, "Count")
    page.wait_for_function("() => document.querySelector('article.assistant .text')?.textContent.length > 5")
    assert page.inner_text("#send") == "Stop"
    page.keyboard.press("Escape")
    answered(page)
    assert re.match(r"stopped · [\d,]+ tokens · ", page.inner_text("article.assistant .note"))
    server.wait_idle()
    page.unroute("**/v1/chat/completions")
    settings(page, max_completion_tokens=4)
    before = page.inner_text("article.assistant > .text")
    page.click("article.assistant [aria-label=Continue]")
    assert answered(page)[0].startswith(before[:20])


def test_an_answer_that_runs_stays_in_its_chat(page: Any, server: RunningServer) -> None:
    """A new chat while another is answered: its request holds its own message alone, and the other is kept."""
    endlessly(page)
    say(page, "Count")
    page.wait_for_function("() => document.querySelector('article.assistant .text')?.textContent.length > 5")
    page.click("#fresh")
    assert page.locator("article").count() == 0 and page.inner_text("#send") == "Send"
    page.unroute("**/v1/chat/completions")
    requests = scripted(page, "Another answer.")
    say(page, "Hello")
    assert answered(page) == ["Another answer."]
    assert requests[0]["messages"] == [{"role": "user", "content": "Hello"}]
    page.click("#chats button:has-text('Count')")
    page.wait_for_selector("article.user:has-text('Count')")
    assert page.inner_text("#send") == "Stop" and page.locator("article.user").inner_text().endswith("Count")
    page.click("#send")
    assert "Another answer." not in answered(page)[0]
    page.click("#chats button.chat:has-text('Hello')")
    page.wait_for_selector("article.user:has-text('Hello')")
    assert answered(page) == ["Another answer."]


def test_an_error_keeps_the_text(page: Any, engine: Engine) -> None:
    """Shown in words; tried again as it was; changed; or left aside by the next question."""
    say(page, "word " * (engine.max_model_len + 10))
    answered(page)
    assert str(engine.max_model_len) in page.inner_text("article.assistant .note.error")
    requests = scripted(page, "It works.")
    page.click("text=Try again")
    assert answered(page) == ["It works."] and requests[0]["messages"][0]["content"].startswith("word word")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<html>Bad gateway"))
    page.click("#fresh")
    say(page, "Through a proxy")
    answered(page)
    assert "502" in page.inner_text(".note.error") and "JSON" not in page.inner_text(".note.error")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.click("text=Try again")
    page.wait_for_function(
        "() => document.querySelector('.note.error')?.textContent.includes('does not answer')"
    )
    page.unroute("**/v1/chat/completions")
    requests = scripted(page, "Fine.")
    say(page, "Something else")
    assert answered(page) == ["Fine."] and requests[0]["messages"] == [
        {"role": "user", "content": "Something else"}
    ]
    assert page.inner_text(".versions .at") == "2 / 2"  # the failed one is the other


def test_text_is_never_markup(page: Any) -> None:
    settings(page, temperature=0, max_completion_tokens=4)
    say(page, "<img src=x onerror=alert(1)><b>bold</b>")
    answered(page)
    assert page.inner_text("article.user .text") == "<img src=x onerror=alert(1)><b>bold</b>"
    assert page.locator("article img, article.user b").count() == 0


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>foreign")

    def log_message(self, *_: object) -> None:
        pass


def test_pages_of_other_origins_are_kept_out(browser: Any, engine: Engine) -> None:
    """A page of one server calls another: by default it hears and causes nothing; allowed, it has its answer."""
    ask = """async ([url, type]) => {
        try {
            const body = JSON.stringify({messages: [{role: "user", content: "Hello"}], max_tokens: 1});
            const headers = {"Content-Type": type};
            const reply = await fetch(url + "/v1/chat/completions", {method: "POST", body, headers});
            return [reply.status, (await reply.json()).object, reply.headers.get("x-request-id") !== null];
        } catch (error) { return String(error); }
    }"""
    # Not the chat page, whose content security policy would keep it from calling others anyhow. From a server of its
    # own, because Chromium counts a page that playwright makes up as one of the internet, which may not call this
    # machine at all.
    context = browser.new_context()
    page = context.new_page()
    with HTTPServer(("127.0.0.1", 0), Foreign) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{foreign.server_port}"
        page.goto(origin)
        with running_server(engine) as closed:
            for content_type in ("application/json", "text/plain"):
                assert "TypeError" in page.evaluate(ask, [closed.url, content_type])
            assert closed.engine.stats()["running"] == 0 and closed.service._admitted == 0
        with running_server(engine, allowed_origins=(origin,)) as opened:
            assert page.evaluate(ask, [opened.url, "application/json"]) == [200, "chat.completion", True]
        foreign.shutdown()
    context.close()
