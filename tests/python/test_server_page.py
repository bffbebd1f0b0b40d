"""The chat page in headless Chromium, as a person uses it. LLAMA4RT_SCREENSHOTS=DIR keeps pictures of it."""

from __future__ import annotations

import base64
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.demo import load_showcase  # noqa: E402
from serving import RunningServer, engine_fixture, running_server  # noqa: E402

engine = engine_fixture(kv_cache_memory="128MiB")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(
                executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
            )
        except playwright.Error as error:
            if path is not None or "Executable doesn't exist" not in str(error):
                raise  # there is one, and it must start
            pytest.skip("there is no Chromium: make chromium, or playwright install chromium")
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: RunningServer) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    outside: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    # The console also tells of answers with an error status, which the page shows to the person.
    page.on(
        "console",
        lambda m: problems.append(m.text) if m.type == "error" and "status of 4" not in m.text else None,
    )
    page.on(
        "request", lambda r: outside.append(r.url) if not r.url.startswith((server.url, "data:")) else None
    )
    page.goto(server.url)
    yield page
    context.close()
    server.wait_idle()
    assert not problems and not outside


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("LLAMA4RT_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def settings(page: Any, **values: Any) -> None:
    page.click("#settings")
    for name, value in values.items():
        if name == "theme":
            page.select_option("#theme", value)
        else:
            page.fill(f"#{name}", str(value))
    page.click("dialog button")


def say(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answered(page: Any, count: int = 1) -> list[str]:
    page.wait_for_function(
        "n => document.querySelectorAll('article.assistant:not(.waiting)').length === n", arg=count
    )
    return list(page.locator("article.assistant .text").all_inner_texts())


def offline(engine: Engine, messages: Any, **params: Any) -> str:
    return (
        engine.chat(messages, SamplingParams(**({"temperature": 0, "max_tokens": 60} | params)))[0]
        .outputs[0]
        .text
    )


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


def test_stop(page: Any, server: RunningServer) -> None:
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=route.request.post_data.replace('"stream":true', '"stream":true,"ignore_eos":true')))  # fmt: skip
    say(page, "Count")
    page.wait_for_function("() => document.querySelector('article.assistant .text')?.textContent.length > 5")
    assert page.inner_text("#send") == "Stop"
    page.click("#send")
    answered(page)
    assert page.inner_text("article.assistant .note") == "stopped" and page.inner_text("#send") == "Send"
    server.wait_idle()


def test_an_error_is_shown(page: Any, engine: Engine) -> None:
    say(page, "word " * (engine.max_model_len + 10))
    answered(page)
    assert str(engine.max_model_len) in page.inner_text("article.assistant .note.error")
    page.evaluate("messages.length === 0 || (() => { throw new Error('a message that failed was kept') })()")


def test_text_is_never_markup(page: Any) -> None:
    settings(page, temperature=0, max_completion_tokens=4)
    say(page, "<img src=x onerror=alert(1)><b>bold</b>")
    answered(page)
    assert page.inner_text("article.user .text") == "<img src=x onerror=alert(1)><b>bold</b>"
    assert page.locator("article img, article b").count() == 0


def test_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 760})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    keep(page, "narrow")


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
