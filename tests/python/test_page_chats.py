"""Conversations on the page: kept, listed, searched, renamed, deleted, exported; branches, edits, tools, keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_driver import (
    answered,
    browser_fixture,
    page_fixture,
    say,
    scripted,
    server_fixture,
    settings,
    watched,
)
from serving import RunningServer, engine_fixture

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture()
browser = browser_fixture()
page = page_fixture()


def chats(page: Any) -> list[str]:
    return list(page.locator("#chats .chat-title").all_inner_texts())


def listed(page: Any, *titles: str) -> None:
    page.wait_for_function(
        "wanted => JSON.stringify([...document.querySelectorAll('.chat-title')].map(e => e.textContent)) === wanted",
        arg=json.dumps(list(titles), separators=(",", ":")),
    )


def reloaded(page: Any) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")


def test_chats_survive_and_can_be_found(page: Any) -> None:
    scripted(page, "Bees make honey.", "Owls hunt at night.")
    say(page, "Tell me about bees")
    answered(page)
    page.click("#fresh")
    say(page, "And owls?")
    answered(page)
    listed(page, "And owls?", "Tell me about bees")
    reloaded(page)
    listed(page, "And owls?", "Tell me about bees")
    page.fill("#search", "HONEY")  # what was said, not only its title
    listed(page, "Tell me about bees")
    page.click("#chats .chat")
    assert answered(page) == ["Bees make honey."]
    page.fill("#search", "")
    listed(page, "And owls?", "Tell me about bees")
    page.click("[aria-label='Rename Tell me about bees']", force=True)
    page.keyboard.type("Bees")
    page.keyboard.press("Enter")
    listed(page, "Bees", "And owls?") if chats(page)[0] == "Bees" else listed(page, "And owls?", "Bees")
    assert page.inner_text("#title") == "Bees"
    page.click("[aria-label='Delete Bees']", force=True)
    listed(page, "And owls?")
    assert page.locator("article").count() == 0
    page.click("text=Undo")
    page.wait_for_function("() => document.querySelectorAll('.chat-title').length === 2")
    assert answered(page) == ["Bees make honey."]


def test_export_and_import(page: Any, browser: Any, server: RunningServer, tmp_path: Path) -> None:
    scripted(page, "First answer.", "Second answer.")
    say(page, "A question")
    answered(page)
    page.click("article.assistant [aria-label='Answer again']")
    page.wait_for_selector(".versions .at:has-text('2 / 2')")
    answered(page)
    page.click("#settings")
    with page.expect_download() as download:
        page.click("text=Export all")
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    with page.expect_download() as download:
        page.click("text=This chat as Markdown")
    assert (
        Path(download.value.path()).read_text()
        == "# A question\n\n## You\n\nA question\n\n## demo\n\nSecond answer.\n"
    )

    context = browser.new_context()  # another machine
    other = watched(context, server)
    other.goto(server.url)
    add = "async text => (await import('/page/js/transfer.js')).addAll(text).catch((error) => error.message)"
    assert other.evaluate(add, file.read_text()) == 1
    other.reload()
    listed(other, "A question")
    other.click("#chats .chat")
    assert answered(other) == ["Second answer."]
    other.click("[aria-label='Earlier version']")
    assert answered(other) == ["First answer."]
    good = json.loads(file.read_text())
    for name, value in {
        "text": 3, "pictures": ["https://example.com/a.png"], "role": "system", "parent": "nobody", "calls": [{}],
    }.items():  # fmt: skip
        bad = json.loads(file.read_text())
        next(iter(bad["conversations"][0]["messages"].values()))[name] = value
        assert "damaged" in other.evaluate(add, json.dumps(bad)), name
    bad = json.loads(file.read_text())  # a circle
    messages = list(bad["conversations"][0]["messages"].values())
    messages[0]["parent"] = messages[1]["id"]
    assert "damaged" in other.evaluate(add, json.dumps(bad))
    assert "kind" in other.evaluate(add, json.dumps(good | {"kind": "else"}))
    assert other.evaluate(add, "{") == "it is not JSON"
    assert not other.problems and not other.outside
    context.close()


def test_edit_branch_and_continue(page: Any) -> None:
    requests = scripted(page, "One.", "Two.", "Three.", " And more.")
    say(page, "First form")
    answered(page)
    page.keyboard.press("ArrowUp")  # in the empty message box: changes the last message
    page.fill("article.user textarea", "Second form")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.user .at:has-text('2 / 2')")
    assert answered(page) == ["Two."]
    assert requests[1]["messages"] == [{"role": "user", "content": "Second form"}]
    page.click("article.user [aria-label='Earlier version']")
    assert answered(page) == ["One."]
    say(page, "Next")
    assert answered(page, 2) == ["One.", "Three."]
    assert [m["content"] for m in requests[2]["messages"]] == ["First form", "One.", "Next"]
    page.locator("article.assistant").first.hover()
    page.locator("[aria-label='Branch off into a new chat']").nth(1).click()
    assert answered(page) == ["One."]
    listed(page, "First form (branch)", "First form")
    # What the model is taken to have said, and how it goes on from there.
    page.click("article.assistant [aria-label=Edit]")
    page.fill("article.assistant textarea", "Once upon")
    page.click("article.assistant .strong")
    assert answered(page) == ["Once upon"]
    page.click("article.assistant [aria-label=Continue]")
    page.wait_for_function(
        "() => document.querySelector('article.assistant .text').textContent.includes('more')"
    )
    assert answered(page) == ["Once upon And more."]
    assert requests[3]["continue_final_message"] is True and requests[3]["add_generation_prompt"] is False
    assert requests[3]["messages"][-1] == {"role": "assistant", "content": "Once upon"}


def test_tools_and_schema(page: Any) -> None:
    page.click("#tools")
    page.fill("#tools-json", "[{]")
    assert page.locator("#tools-json-problem").inner_text()
    page.locator("dialog button:has-text('Example')").first.click()
    page.select_option("#tool_choice", "required")
    page.locator("dialog button:has-text('Example')").last.click()
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Lima"}'},
    }
    requests = scripted(page, "", calls=[call], reason="tool_calls")
    say(page, "How is the weather?")
    answered(page)
    assert (
        requests[0]["tools"][0]["function"]["name"] == "get_weather"
        and requests[0]["tool_choice"] == "required"
    )
    assert requests[0]["response_format"]["json_schema"]["schema"]["required"] == ["name", "age"]
    assert "get_weather" in page.inner_text(".call") and '"city": "Lima"' in page.inner_text(".call pre")
    page.unroute("**/v1/chat/completions")
    requests = scripted(page, "It is sunny.")
    page.fill(".call textarea", '{"sky": "clear"}')
    page.click("text=Send results")
    page.wait_for_function("() => document.querySelectorAll('article.assistant').length === 2")
    assert answered(page, 2)[1] == "It is sunny."
    _, said, result = requests[0]["messages"]
    assert said["tool_calls"][0]["function"] == call["function"]
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "clear"}'}


def test_tools_reach_the_engine(page: Any) -> None:
    """Not scripted: what the panel makes is what the server takes, and its call is read."""
    page.click("#tools")
    page.locator("dialog button:has-text('Example')").first.click()
    page.select_option("#tool_choice", "required")
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")
    settings(page, temperature=0)
    say(page, "How is the weather in Lima?")
    answered(page)
    assert "calls get_weather" in page.inner_text(".call")
    assert set(json.loads(page.inner_text(".call pre"))) == {"city"}


def test_keyboard(page: Any) -> None:
    scripted(page, "Fine.")
    assert page.evaluate("document.activeElement.id") == "text"
    say(page, "Hello")
    answered(page)
    page.keyboard.press("Alt+ArrowUp")
    assert page.evaluate("document.activeElement.className").startswith("assistant")
    page.keyboard.press("Alt+ArrowUp")
    assert page.evaluate("document.activeElement.className") == "user"
    page.keyboard.press("?")
    assert page.inner_text("dialog h2") == "Keyboard" and "New chat" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("/")
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.className") == "chat"
    page.keyboard.press("Control+Shift+O")
    assert page.locator("article").count() == 0 and page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Control+b")
    assert page.evaluate("document.getElementById('sidebar').inert")


def test_what_a_reader_hears(page: Any) -> None:
    scripted(page, "It is **done**.")
    heard = """() => { window.heard = []; new MutationObserver(() => {
        const text = document.getElementById("live").textContent;
        if (text) window.heard.push(text);
    }).observe(document.getElementById("live"), { childList: true, characterData: true, subtree: true }); }"""
    page.evaluate(heard)
    say(page, "Hello")
    answered(page)
    page.wait_for_function("() => window.heard.some((text) => text.startsWith('It is'))")
    assert page.evaluate("window.heard.length") <= 3  # not a word at a time
    assert page.get_attribute("article.assistant", "aria-label") == "demo"
    assert page.get_attribute("article.user", "aria-label") == "You"
    assert page.locator("#talk[aria-live], #scroll[aria-live]").count() == 0


def test_a_key_lasts_for_the_tab(page: Any) -> None:
    settings(page, key="secret", temperature=1.5)
    reloaded(page)
    page.click("#settings")
    assert page.input_value("dialog #key") == "secret" and page.input_value("dialog #temperature") == "1.5"
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    page.check("#keep_key")
    page.click("dialog .strong")
    page.wait_for_selector("dialog", state="detached")
    assert "secret" in page.evaluate("JSON.stringify(localStorage)")


def test_true_rates(page: Any) -> None:
    """No rate of what came at once; otherwise tokens after the first event, by the time after it."""
    measure = """async ([times, tokens]) => {
        const { Watch, summary } = await import("/page/js/numbers.js");
        let now = 0;
        const watch = new Watch(() => now);
        times.forEach((time, i) => {
            now = time;
            watch.usage = { completion_tokens: tokens[i], prompt_tokens: 7 };
            watch.saw(watch.usage);
        });
        return summary({ numbers: watch.numbers(), state: "stopped" });
    }"""
    assert page.evaluate(measure, [[300], [5]]) == "stopped · 5 tokens · first after 0.30 s"
    assert page.evaluate(measure, [[300, 310], [5, 400]]) == "stopped · 400 tokens · first after 0.30 s"
    said = page.evaluate(measure, [[300, 800, 2300], [10, 15, 50]])
    assert said == "stopped · 50 tokens · 20.0 tokens/s · first after 0.30 s"
