"""The pages in headless Chromium: a server, a browser, and what a person does. Skips where there is no Chromium.

Whatever a test does, nothing may be loaded from elsewhere, no script may fail, and the server must be idle afterwards.
LLAMA4RT_SCREENSHOTS=DIR keeps pictures.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama4rt import Engine, SamplingParams
from serving import RunningServer, running_server

playwright = pytest.importorskip("playwright.sync_api")

MOST_MS = 60_000  # that anything may take on a loaded machine


def browser_fixture() -> Any:
    @pytest.fixture(scope="module")
    def browser() -> Iterator[Any]:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), None)
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

    return browser


def server_fixture(**options: Any) -> Any:
    @pytest.fixture(scope="module")
    def server(engine: Engine) -> Iterator[RunningServer]:
        with running_server(engine, **options) as server:
            yield server

    return server


def page_fixture(path: str = "", **context_options: Any) -> Any:
    """A page of a browser that has never been here, watched."""

    @pytest.fixture
    def page(browser: Any, server: RunningServer) -> Iterator[Any]:
        options = {"viewport": {"width": 1100, "height": 800}, "color_scheme": "light"} | context_options
        context = browser.new_context(**options)
        page = watched(context, server)
        page.goto(server.url + path)
        page.wait_for_selector("html[data-ready]")
        yield page
        problems, outside = page.problems, page.outside
        context.close()
        server.wait_idle()
        assert not problems, problems
        assert not outside, outside

    return page


def watched(context: Any, server: RunningServer) -> Any:
    page = context.new_page()
    page.set_default_timeout(MOST_MS)
    page.problems, page.outside = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if _is_problem(message) else None)
    inside = (server.url, "data:", "blob:")
    page.on("request", lambda r: page.outside.append(r.url) if not r.url.startswith(inside) else None)
    return page


def _is_problem(message: Any) -> bool:
    """The console also tells of answers with an error status, which the page shows to the person."""
    return message.type == "error" and "Failed to load resource" not in message.text


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("LLAMA4RT_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def settings(page: Any, **values: Any) -> None:
    page.click("#settings")
    for name, value in values.items():
        if name == "theme":
            page.select_option("#theme", value)
        else:
            page.fill(f"dialog #{name}", str(value))
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")


def say(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answered(page: Any, count: int = 1) -> list[str]:
    """Waits for so many answers that have ended, drawn; returns their texts. One that has not begun has no words yet,
    not even about itself.
    """
    page.wait_for_function(
        """n => document.querySelectorAll("article.assistant").length === n
        && !document.querySelector("article[aria-busy=true]")
        && [...document.querySelectorAll("article.assistant")].every(
          (a) => a.querySelector(".text").textContent || a.querySelector(".note").textContent)
        && document.getElementById("send").textContent === "Send" """,
        arg=count,
    )
    return list(page.locator("article.assistant > .text").all_inner_texts())


def scripted(page: Any, *answers: str, **more: Any) -> list[dict[str, Any]]:
    """Instead of the model: these texts, one a request. Returns the list of requests, which grows."""
    requests: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        requests.append(json.loads(route.request.post_data))
        text = answers[min(len(requests), len(answers)) - 1]
        route.fulfill(status=200, content_type="text/event-stream", body=stream_of(text, **more))

    page.route("**/v1/chat/completions", answer)
    return requests


def stream_of(text: str, calls: Any = None, reason: str = "stop") -> str:
    """As the server writes it, in two events and with its counts."""
    half = len(text) // 2
    deltas: list[dict[str, Any]] = [{"content": part} for part in (text[:half], text[half:]) if part]
    deltas += [{"tool_calls": [call | {"index": i}]} for i, call in enumerate(calls or [])]
    lines = []
    for i, delta in enumerate(deltas):
        usage = {
            "prompt_tokens": 11,
            "completion_tokens": i + 1,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        lines.append({"model": "demo", "choices": [choice], "usage": usage})
    lines.append({"model": "demo", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"


def endlessly(page: Any) -> None:
    """The model's answers go on to the end of the context, unless somebody stops them."""

    def send(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"ignore_eos": True, "n_predict": -1}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", send)


def offline(engine: Engine, messages: Any, **params: Any) -> str:
    sampling = SamplingParams(**({"temperature": 0, "max_tokens": 60} | params))
    return engine.chat(messages, sampling)[0].outputs[0].text
