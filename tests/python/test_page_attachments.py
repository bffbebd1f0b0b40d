"""Texts and PDF files on the page: read in the browser, counted in tokens by the server, sent with the message."""

from __future__ import annotations

import zlib
from typing import Any

import httpx2
from llama4rt import Engine
from page_driver import answered, browser_fixture, keep, page_fixture, say, scripted, server_fixture
from serving import RunningServer, engine_fixture

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture()
browser = browser_fixture()
page = page_fixture()


def pdf(*pages: list[str], compress: bool = True) -> bytes:
    """A PDF file with one line of text below the other, in Helvetica."""
    count = len(pages)
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    objects.append(f"<< /Type /Pages /Count {count} /Kids [{kids}] >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for i, lines in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 400] /Contents {5 + 2 * i} 0 R {resources} >>".encode()
        )
        shown = "".join(f"BT /F1 12 Tf 20 {360 - 20 * n} Td ({line}) Tj ET\n" for n, line in enumerate(lines))
        data = shown.encode("cp1252")
        packed = zlib.compress(data) if compress else data
        head = f"<< /Length {len(packed)}{' /Filter /FlateDecode' if compress else ''} >>\nstream\n"
        objects.append(head.encode() + packed + b"\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def attach(page: Any, name: str, data: bytes, kind: str = "text/plain") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def chip(page: Any, words: str) -> None:
    page.wait_for_function(
        "words => document.getElementById('pending').textContent.includes(words)", arg=words
    )


def tokens(server: RunningServer, text: str) -> int:
    body = {"prompt": text, "add_special_tokens": False}
    return int(httpx2.post(server.url + "/tokenize", json=body, timeout=60).json()["count"])


def test_a_pdf_file(page: Any, server: RunningServer) -> None:
    requests = scripted(page, "Noted.")
    attach(
        page,
        "report.pdf",
        pdf(["The code of the ivory", "pencil is P955."], ["Page two: caf\xe9"]),
        "application/pdf",
    )
    text = "File report.pdf:\n```\nThe code of the ivory\npencil is P955.\n\nPage two: caf\xe9\n```"
    chip(page, f"{tokens(server, text)} tokens")
    keep(page, "pdf")
    say(page, "What is the code?")
    assert answered(page) == ["Noted."]
    assert requests[0]["messages"] == [{"role": "user", "content": f"{text}\n\nWhat is the code?"}]
    assert page.inner_text("article.user summary").startswith("report.pdf")
    assert page.locator("#pending > *").count() == 0


def test_text_files(page: Any, server: RunningServer, engine: Engine) -> None:
    requests = scripted(page, "Noted.")
    attach(page, "a.md", "# Titel\r\nGr\xfc\xdfe\r\n".encode())
    attach(page, "b.csv", "a;b\n\xe4;1\n".encode("cp1252"), "text/csv")
    chip(page, "b.csv")
    count = tokens(server, "File a.md:\n```\n# Titel\nGr\xfc\xdfe\n```")
    chip(page, f"{count} tokens")
    page.wait_for_function(
        "() => /^\\d+ tokens, \\d+ of 16,384 in the context$/.test(document.getElementById('hint').textContent)"
    )
    page.press("#text", "Enter")
    answered(page)
    (message,) = requests[0]["messages"]
    assert (
        message["content"]
        == "File a.md:\n```\n# Titel\nGr\xfc\xdfe\n```\n\nFile b.csv:\n```\na;b\n\xe4;1\n```"
    )
    attach(page, "long.txt", b"word " * (engine.max_model_len + 100))
    chip(page, "does not fit")
    assert "the context holds 16,384" in page.inner_text("#hint")
    page.click("[aria-label='Remove long.txt']")
    assert page.locator("#pending > *").count() == 0 and "does not fit" not in page.inner_text("#hint")


def test_what_cannot_be_read(page: Any) -> None:
    for name, data, kind, words in (
        ("a.bin", b"\x00\x01\x02", "application/octet-stream", "neither a picture"),
        ("b.pdf", b"%PDF-1.4\nnonsense", "application/pdf", "damaged"),
        ("c.png", b"no picture", "image/png", "cannot be read"),
        ("d.pdf", pdf([]), "application/pdf", "holds no text"),
    ):
        attach(page, name, data, kind)
        page.wait_for_selector(f".toast:has-text('{name}'):has-text('{words}')")
        assert page.locator("#pending > *").count() == 0
    assert page.inner_text("#hint").startswith("Enter sends")


def test_a_draft_is_counted_before_it_is_sent(page: Any, server: RunningServer) -> None:
    text = "How many tokens does this take, and how many are left?"
    page.fill("#text", text)
    page.wait_for_function(
        "n => document.getElementById('hint').textContent.startsWith(n + ' tokens')", arg=tokens(server, text)
    )
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.input_value("#text") == text
