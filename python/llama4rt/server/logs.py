"""The server's log on stderr: lines of JSON, or of text for people. Library code never calls this; programs do."""

import ctypes
import json
import logging
import sys
import time
from typing import Any


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        message = record.getMessage()
        if record.name == "llama4rt.access":
            entry.update(json.loads(message))
        else:
            entry["message"] = message
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True)


class TextLines(logging.Formatter):
    """One line for each record but for tracebacks. What a client chose (a path) cannot start lines or colour them."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name == "llama4rt.access":
            message = _request_line(json.loads(message))
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname:<7} {_printable(message)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _request_line(entry: dict[str, Any]) -> str:
    """POST /v1/completions 200 in 0.52 s prompt_tokens=5 output_tokens=9 request_id=..."""
    words = [str(entry.pop(name)) for name in ("method", "path", "status") if entry.get(name) is not None]
    if "seconds" in entry:
        words.append(f"in {entry.pop('seconds')} s")
    request_id = entry.pop("request_id", None)
    reason = entry.pop("reason", None)
    words += [f"{name}={value}" for name, value in entry.items()]
    if request_id is not None:
        words.append(f"request_id={request_id}")
    return " ".join(words) + (f": {reason}" if reason else "")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str = "info", form: str | None = None) -> None:
    """The loggers of the server and of uvicorn to stderr; nothing else is touched. form: "json", "text", or None: text
    when stderr is a terminal, JSON for whoever collects it elsewhere.
    """
    if form is None:
        form = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if form == "text" else JsonLines())
    for name in ("llama4rt", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger("uvicorn").level))


def silence_libtiff() -> None:
    """For a process of our own: Pillow's libtiff writes what is wrong with a picture to stderr, past Python and between
    the lines of the log. The client hears that the picture is damaged anyhow.
    """
    from PIL import Image

    Image.init()  # loads the library
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            path = next(line.split(maxsplit=5)[5].strip() for line in maps if "/libtiff" in line)
        set_handler = ctypes.CDLL(path).TIFFSetErrorHandler
    except (OSError, StopIteration, AttributeError):
        return  # another system, or a Pillow that holds no libtiff, or has it inside
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)
