"""What answers look like on the page: Markdown, code, formulas; and that nothing of an answer can act on the page."""

from __future__ import annotations

from typing import Any

import pytest
from page_driver import answered, browser_fixture, keep, page_fixture, say, scripted, server_fixture
from serving import engine_fixture

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture()
browser = browser_fixture()
page = page_fixture()

RICH = r"""# The harmonic series

Some **bold** text, `code`, a [link](https://example.com/a) and ~~nothing~~.

| n | sum | more |
|---|----:|:----:|
| 1 | 1 | a |
| 2 | 1.5 | b |

1. one
2. two
   - nested
- [x] done

H<sub>2</sub>O and a <div>.

Inline \(a^2\) and $b_1$, but $5 and $10 are money, and so is $5-$10.

$$
\sum_{k=1}^{n} \frac{1}{k} \approx \ln n + \gamma
$$

\[ \int_0^1 x\,dx = \tfrac12 \]

```python
def harmonic(n):
    return sum(1 / k for k in range(1, n + 1))  # O(n)
```

> A quote

```
plain <b>text</b>
```
"""


def ask(page: Any, *answers: str) -> Any:
    scripted(page, *answers)
    say(page, "Please")
    answered(page)
    return page.locator("article.assistant > .text")


def test_markdown(page: Any) -> None:
    text = ask(page, RICH)
    page.wait_for_function("() => document.querySelectorAll('.formula .katex').length === 4")
    page.wait_for_selector(".hl-keyword")
    assert text.locator("h3").inner_text() == "The harmonic series"
    assert text.locator("td").all_inner_texts() == ["1", "1", "a", "2", "1.5", "b"]
    assert text.locator("ol > li").count() == 2 and text.locator("ol ul > li").count() == 1
    assert "☑ done" in text.inner_text() and text.locator("sub").inner_text() == "2"
    assert "a <div>." in text.inner_text()
    aligned = text.locator("tbody tr").first.locator("td")
    assert [cell.get_attribute("align") for cell in aligned.all()] == [None, "right", "center"]
    link = text.locator("a")
    assert link.get_attribute("target") == "_blank" and "noopener" in link.get_attribute("rel")
    assert text.locator(".formula.display").count() == 2 and "$5-$10" in text.inner_text()
    assert text.locator(".katex-mathml math").count() == 4  # what a screen reader reads
    assert text.locator(".hl-keyword").first.inner_text() == "def"
    assert text.locator(".code").nth(1).locator("pre").inner_text() == "plain <b>text</b>\n"
    keep(page, "markdown")


def test_copying(page: Any, browser: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, RICH)
    page.locator(".copy-code").first.click()
    page.wait_for_selector(".copy-code:has-text('Copied')")
    code = "def harmonic(n):\n    return sum(1 / k for k in range(1, n + 1))  # O(n)"
    assert page.evaluate("navigator.clipboard.readText()") == code
    page.click("article.assistant .actions [aria-label=Copy]")
    page.wait_for_function("async want => await navigator.clipboard.readText() === want", arg=RICH)


HOSTILE = [
    "<script>window.hit = 1</script>after",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload='window.hit = 1'><a xlink:href='javascript:window.hit=1'>x</a></svg>",
    "[click](javascript:window.hit=1) [data](data:text/html,<script>window.hit=1</script>)",
    "<a href='JaVaScRiPt:window.hit=1'>x</a><iframe src='https://example.com'></iframe>",
    "![tracking](https://example.com/pixel.png)",
    "<style>body { display: none }</style><link rel=stylesheet href=https://example.com/a.css>",
    "<form action='https://example.com'><input name=a><button>go</button></form>",
    "<div style='position:fixed;inset:0' class='toast' id='text' onclick='window.hit=1'>cover</div>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hit=1&gt;'>",
    '```"><img/src=x/onerror=window.hit=1>\ncode\n```',
    r"$\href{javascript:window.hit=1}{x}$ $\includegraphics{https://example.com/a.png}$ $\htmlStyle{color:red}{x}$",
    "<base href='https://example.com/'><meta http-equiv=refresh content='0;url=https://example.com'>",
    "[x]: javascript:window.hit=1\n\n[x]",
    "<noscript><p title='</noscript><img src=x onerror=window.hit=1>'></noscript>",
]


def test_no_answer_acts(page: Any) -> None:
    """page_fixture also sees to it that nothing was asked of another server."""
    scripted(page, "\n\n".join(HOSTILE), *HOSTILE)
    say(page, "all of them")
    answered(page)
    for i, _ in enumerate(HOSTILE, 2):
        say(page, f"number {i}")
        answered(page, i)
    for link in page.locator("article.assistant a").all():
        link.dispatch_event("click", {"bubbles": False})
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    wrong = "script, img, iframe, style, link, form, input, base, meta, [style*=fixed], [onclick]"
    bodies = page.locator("article.assistant > .text")
    assert [b.inner_html()[:200] for b in bodies.all() if b.locator(wrong).count()] == []
    assert "<script>window.hit = 1</script>after" in bodies.nth(1).inner_text()  # it can be read
    hrefs = page.evaluate("[...document.querySelectorAll('.text a[href]')].map((a) => a.protocol)")
    assert set(hrefs) <= {"https:", "http:"}
    assert page.locator("#text").count() == 1 and page.locator(".text .toast").count() == 0


def test_text_that_comes_piece_by_piece(page: Any) -> None:
    """Drawn at every length as at the end drawn at once; what stood there stays the same element."""
    grow = """async (text) => {
        const { Markdown } = await import("/page/js/markdown.js");
        const growing = new Markdown(document.createElement("div"));
        const whole = new Markdown(document.createElement("div"));
        let first = null, kept = true;
        for (let i = 1; i <= text.length; i += 3) {
            growing.update(text.slice(0, i), false);
            if (i > 60) { first ??= growing.body.firstElementChild; kept &&= growing.body.firstElementChild === first; }
        }
        growing.update(text, true);
        whole.update(text, true);
        await new Promise((done) => setTimeout(done, 1500));
        return [kept, growing.body.innerHTML === whole.body.innerHTML, whole.body.textContent.length];
    }"""
    kept, same, length = page.evaluate(grow, RICH)
    assert kept and same and length > 300


@pytest.mark.parametrize("name", ["a.md", "scene `` ```` .txt"])
def test_a_file_stays_apart_from_the_words(page: Any, name: str) -> None:
    """The fence around a file's text is longer than any in it."""
    make = "async file => (await import('/page/js/conversation.js')).fileText(file)"
    text = "```python\nx\n```\n`````\n"
    lines = page.evaluate(make, {"name": name, "text": text}).split("\n")
    assert lines[0] == f"File {name}:" and lines[1] == lines[-1] == "``````"
    assert "\n".join(lines[2:-1]) + "\n" == text
