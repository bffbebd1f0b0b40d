"""`llama4rt chat` as people use it, and what `serve` says on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from llama4rt import Engine, SamplingParams
from llama4rt.cli.terminal_markdown import MarkdownStream, printable
from llama4rt.demo import load_showcase

SMALL = ["-t", "1", "--kv-cache-memory", "32MiB", "--max-model-len", "512", "--temperature", "0", "-n", "40"]
SUM = "What is 12 + 30?"


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    with Engine(num_threads=1, kv_cache_memory="32MiB", max_model_len=512) as engine:
        params = SamplingParams(temperature=0, max_tokens=40)
        return {q: engine.chat([{"role": "user", "content": q}], params)[0].text for q in ("Hello", SUM)}


def chat(lines: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama4rt", "chat", *SMALL, *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


# --- Markdown ---------------------------------------------------------------------------------------------------------

BOLD, ITALIC, CODE, DIM, HEADING, PLAIN = "\x1b[1m", "\x1b[3m", "\x1b[36m", "\x1b[2m", "\x1b[1;4m", "\x1b[0m"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 2 * 3 * 4 = 24 and a*b", "plain, 2 * 3 * 4 = 24 and a" + PLAIN + ITALIC + "b" + PLAIN),
        ("a **b** c", f"a {PLAIN}{BOLD}b{PLAIN} c"),
        (
            "*a* **b *c* d**",
            f"{PLAIN}{ITALIC}a{PLAIN} {PLAIN}{BOLD}b {PLAIN}{BOLD}{ITALIC}c{PLAIN}{BOLD} d{PLAIN}",
        ),
        ("`x*y*z` w", f"{PLAIN}{CODE}x*y*z{PLAIN} w"),
        ("# Head\ntext", f"{HEADING}Head{PLAIN}\ntext"),
        ("- one\n* two\n  - three", "• one\n• two\n  • three"),
        ("#no heading\n-no list", "#no heading\n-no list"),
        ("a **lost star\nb", f"a {PLAIN}{BOLD}lost star{PLAIN}\nb"),
        (
            "x\n```python\n# a *b*\n- c\n```\ny",
            f"x\n{DIM}```python{PLAIN}\n{CODE}# a *b*\n- c\n{DIM}```{PLAIN}\ny",
        ),
        ("```\nnever closed", f"{DIM}```{PLAIN}\n{CODE}never closed{PLAIN}"),
        ("\x1b]0;title\x07\x1b[2Jx\r\x9by", "]0;title[2Jxy"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 3, 100])
def test_markdown_is_the_same_however_it_streams(text: str, shown: str, pieces: int) -> None:
    out: list[str] = []
    stream = MarkdownStream(out.append)
    for i in range(0, len(text), pieces):
        stream.push(text[i : i + pieces])
    stream.finish()
    assert "".join(out) == shown


def test_words_do_not_wait() -> None:
    out: list[str] = []
    stream = MarkdownStream(out.append)
    stream.push("Hello wor")
    assert "".join(out) == "Hello wor"
    assert printable("a\tb\nc\x00\x1b") == "a\tb\nc"


# --- commands ---------------------------------------------------------------------------------------------------------


def test_commands(answers: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    done = chat(
        f"Hello\n/regen\n/foo\n/imag\n/system\n/stats\n/save {file}\n/clear\n/regen\n/stats\n/help\n{SUM}\n"
    )
    assert done.stdout == answers["Hello"] + "\n" + answers["Hello"] + "\n" + answers[SUM] + "\n"
    for words in (
        "/foo is no command", "did you mean /image?", "there is no system prompt", "2 messages", "0 messages",
        "nothing was asked yet", "/save FILE", "tokens/s",
    ):  # fmt: skip
        assert words in done.stderr, words
    saved = json.loads(file.read_text())
    assert saved["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": answers["Hello"]},
    ]
    again = chat(f"/load {file}\n/regen\n/load {tmp_path / 'none.json'}\n")
    assert again.stdout == answers["Hello"] + "\n" and "none.json" in again.stderr
    (tmp_path / "other.json").write_text("[]")
    assert "holds no conversation" in chat(f"/load {tmp_path / 'other.json'}\n").stderr


def test_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat(f'"""\na\n\nb\n"""\none \\\ntwo\n/system Be kind.\n/save {file}\n/system -\n/save {file}.2\n')
    said = [m["content"] for m in json.loads(file.read_text())["messages"] if m["role"] != "assistant"]
    assert said == ["Be kind.", "a\n\nb", "one \ntwo"]
    assert json.loads(Path(f"{file}.2").read_text())["messages"][0]["role"] == "user"


def test_pictures_are_saved_and_come_back(tmp_path: Path) -> None:
    shown = load_showcase().pictures[0]
    question = shown.questions[0].question
    file = tmp_path / "talk.json"
    done = chat(f"/image {shown.path}\n{question}\n/save {file}\n/image nowhere.png\n")
    assert "nowhere.png" in done.stderr
    parts = json.loads(file.read_text())["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image", "text"] and parts[0]["base64"]
    assert chat(f"/load {file}\n/regen\n").stdout == done.stdout


def test_a_prompt_that_is_too_long_ends_a_script() -> None:
    assert "max_model_len" in chat("word " * 2000 + "\n", code=1).stderr


# --- on a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    def __init__(self, *args: str, **environment: str) -> None:
        self._main, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama4rt", *args],
            stdin=child, stdout=child, stderr=child, close_fds=True, start_new_session=True,
            env={**os.environ, "TERM": "xterm", **environment},
        )  # fmt: skip
        os.close(child)
        self._seen = ""

    def until(self, words: str, seconds: float = 60) -> str:
        """All that was shown until `words`, once it has come."""
        deadline = time.monotonic() + seconds
        while words not in self._seen:
            assert time.monotonic() < deadline, self._seen
            if select.select([self._main], [], [], 0.2)[0]:
                self._seen += os.read(self._main, 1 << 16).decode("utf-8", "replace")
        before, _, self._seen = self._seen.partition(words)
        return before + words

    def interrupt_until(self, words: str, seconds: float = 60) -> None:
        """Ctrl-C, as often as it takes: readline misses a signal between its prompt and its waiting."""
        deadline = time.monotonic() + seconds
        while True:
            self.process.send_signal(signal.SIGINT)
            try:
                self.until(words, 2)
                return
            except AssertionError:
                assert time.monotonic() < deadline, self._seen

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def end(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            os.close(self._main)


def test_a_talk_on_a_terminal(answers: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal("chat", *SMALL, XDG_STATE_HOME=str(tmp_path))
    banner = terminal.until("> ")
    assert re.search(r"demo on cpu: reads text and pictures, up to 512 tokens", banner)
    terminal.type("Hello\n")
    shown = terminal.until("s]")
    assert answers["Hello"].split()[0] in shown and "tokens/s, the first after" in shown
    terminal.until("> ")
    terminal.type("word " * 600 + "\n")
    terminal.until("max_model_len")  # said, and the conversation goes on without the line
    terminal.until("> ")
    terminal.type("/stats\n")
    terminal.until("conversation  2 messages")
    terminal.until("> ")
    terminal.interrupt_until("Ctrl-D ends")
    terminal.type("/exit\n")
    assert terminal.end() == 0
    history = tmp_path / "llama4rt" / "chat_history"
    assert "Hello" in history.read_text() and history.stat().st_mode & 0o077 == 0


def test_what_serve_says_on_a_terminal() -> None:
    pytest.importorskip("uvicorn")
    terminal = Terminal("serve", "--port", "0", "-t", "1", "--kv-cache-memory", "32MiB", "--api-key", "k")
    said = terminal.until("(Ctrl-C ends it)")
    url = re.search(r"ready: (http://127\.0\.0\.1:\d+)", said)
    assert url is not None
    for words in (
        "demo on cpu",
        f"{url[1]}/\r",
        f"{url[1]}/v1",
        f"curl {url[1]}/v1/chat/completions",
        "Bearer KEY",
    ):
        assert words in said, words
    command = re.search(r"curl (http\S+) (.*)\r", said)
    assert command is not None
    words_ = shlex.split(command[2].replace("KEY", "k"))
    headers = dict(w.split(": ", 1) for w in words_ if ": " in w and not w.startswith("{"))
    body = next(w for w in words_ if w.startswith("{"))
    request = urllib.request.Request(command[1], body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert json.load(reply)["choices"][0]["message"]["content"]
    line = terminal.until("/v1/chat/completions 200 in")  # a line for people
    assert "INFO" in line
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 0
