"""The server's log: lines of JSON on stderr. Library code never calls this; programs do."""

import ctypes
import json
import logging
import sys
import time


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


def configure(level: str = "info") -> None:
    """The loggers of the server and of uvicorn to stderr; nothing else is touched."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
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
