"""A session in a file: a zip archive, not compressed, of

session.json            what it is, with the model's and the blocks' identity
tokens.i32              token ids, little-endian
pictures/DIGEST.u8      tiles of each picture, only in exported files; otherwise they lie in the directory's pictures/
blocks.kvs              keys and values, only in exported files: a segment of the store

What is read here may come from anybody: sizes are bounded, names are not paths, and every member has its checksum.
"""

import json
import math
import os
import time
import zipfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.sessions.state import SessionState

FORMAT = "llama4rt session"
VERSION = 1
BLOCKS = "blocks.kvs"
_MAX_JSON = 64 << 20
_MAX_TOKENS = 1 << 28
_MAX_PICTURE = 1 << 30
_COPY = 1 << 20

# The tiles of the picture of this digest (hex) and so many bytes.
ReadPicture = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class SessionHeader:
    name: str
    model: str
    blocks: str  # identity of the keys and values it was made with
    updated: float
    num_tokens: int
    num_images: int


def write(
    path: Path,
    state: SessionState,
    *,
    name: str,
    model: str,
    blocks: str,
    pictures: bool = False,
    blocks_file: Path | None = None,
) -> None:
    """Replaces `path` by rename: a reader sees the old file or the new one, and a crash leaves one of them."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "model": model,
        "blocks": blocks,
        "updated": time.time(),
        "num_tokens": len(state.token_ids),
        "output_tokens": state.output_tokens,
        "seed": state.seed,
        "messages": state.messages,
        "pictures": [_picture_header(image) for image in state.images],
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                archive.writestr("session.json", json.dumps(header))
                archive.writestr("tokens.i32", array("i", state.token_ids).tobytes())
                if pictures:
                    for digest, image in {image.digest.hex(): image for image in state.images}.items():
                        archive.writestr(f"pictures/{digest}.u8", image.tiles.tobytes())
                if blocks_file is not None:
                    archive.write(blocks_file, BLOCKS)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Llama4RTError(f"{path}: the session cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: Path) -> SessionHeader:
    with _opened(path) as archive:
        return _header(path, _read_json(path, archive))


def read(path: Path, read_picture: ReadPicture | None = None) -> tuple[SessionHeader, SessionState]:
    """read_picture: where pictures are that the file does not hold."""
    with _opened(path) as archive:
        fields = _read_json(path, archive)
        header = _header(path, fields)
        tokens = array("i")
        tokens.frombytes(_member(path, archive, "tokens.i32", 4 * _MAX_TOKENS))
        token_ids = tokens.tolist()
        if len(token_ids) != header.num_tokens:
            raise _bad(path, f"it has {len(token_ids)} tokens and says {header.num_tokens}")

        def from_archive(digest: str, size: int) -> bytes:
            return _member(path, archive, f"pictures/{digest}.u8", size)

        images = [_picture(path, item, read_picture or from_archive) for item in fields["pictures"]]
        output = fields.get("output_tokens")
        seed = fields.get("seed")
        messages = fields.get("messages")
        if not isinstance(output, int) or not 0 <= output <= len(token_ids) or not isinstance(seed, int):
            raise _bad(path, "output_tokens or seed is wrong")
        if messages is not None and not (
            isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
        ):
            raise _bad(path, "messages is no list of messages")
        return header, SessionState(token_ids, images, output, seed & (2**63 - 1), messages)


def extract_blocks(path: Path, to: Path) -> bool:
    """Writes the keys and values that the file holds into a new file; False: it holds none."""
    with _opened(path) as archive:
        if BLOCKS not in archive.namelist():
            return False
        try:
            with archive.open(BLOCKS) as source, open(to, "xb") as out:
                while chunk := source.read(_COPY):
                    out.write(chunk)
        except (zipfile.BadZipFile, EOFError) as error:
            to.unlink(missing_ok=True)
            raise _bad(path, f"its keys and values are damaged: {error}") from None
        except OSError as error:
            to.unlink(missing_ok=True)
            raise Llama4RTError(f"{to}: {error.strerror or error}") from None
    return True


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file: IO[bytes] = open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise RequestError(f"{path}: the session cannot be read: {error.strerror or error}") from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise _bad(path, f"no session file: {error}") from None
        with archive:
            yield archive


def _member(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise _bad(path, f"{name} is compressed, or has {info.file_size} bytes of at most {most}")
        return archive.read(info)
    except KeyError:
        raise _bad(path, f"it has no {name}") from None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise _bad(path, f"{name}: {error}") from None


def _read_json(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        fields = json.loads(_member(path, archive, "session.json", _MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"session.json: {error}") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise _bad(path, "it is no llama4rt session")
    if fields.get("version") != VERSION:
        raise _bad(path, f"its version is {fields.get('version')!r:.20}; this llama4rt reads {VERSION}")
    return fields


def _header(path: Path, fields: dict[str, Any]) -> SessionHeader:
    pictures = fields.get("pictures")
    values = [fields.get(key) for key in ("name", "model", "blocks", "updated", "num_tokens")]
    name, model, blocks, updated, num_tokens = values
    if not (
        all(isinstance(value, str) for value in (name, model, blocks))
        and isinstance(updated, (int, float))
        and isinstance(num_tokens, int)
        and isinstance(pictures, list)
    ):
        raise _bad(path, "session.json lacks name, model, blocks, updated, num_tokens or pictures")
    return SessionHeader(name, model, blocks, float(updated), num_tokens, len(pictures))  # type: ignore[arg-type]


def _picture_header(image: Any) -> dict[str, Any]:
    tiling = image.tiling
    return {
        "digest": image.digest.hex(),
        "shape": list(image.tiles.shape),
        "tiling": [list(tiling.canvas), list(tiling.resized), tiling.rows, tiling.cols],
    }


def _picture(path: Path, item: Any, read_picture: ReadPicture) -> Any:
    import numpy as np

    from llama4rt.images.processing import ProcessedImage, digest_of
    from llama4rt.images.tiling import Tiling

    try:
        digest, shape = bytes.fromhex(item["digest"]), [int(side) for side in item["shape"]]
        canvas, resized, rows, cols = item["tiling"]
        tiling = Tiling(
            (int(canvas[0]), int(canvas[1])), (int(resized[0]), int(resized[1])), int(rows), int(cols)
        )
    except (KeyError, TypeError, ValueError, IndexError):
        raise _bad(path, "a picture of session.json is wrong") from None
    if len(shape) != 4 or min(shape) < 1 or shape[3] != 3 or math.prod(shape) > _MAX_PICTURE:
        raise _bad(path, f"a picture has the shape {shape!r:.60}")
    data = read_picture(digest.hex(), math.prod(shape))
    if len(data) != math.prod(shape):
        raise _bad(
            path, f"the picture {digest.hex()[:16]} has {len(data)} bytes; it must have {math.prod(shape)}"
        )
    tiles = np.frombuffer(data, np.uint8).reshape(shape)
    if digest_of(shape[1], tiles) != digest:
        raise _bad(path, f"the picture {digest.hex()[:16]} is damaged")
    return ProcessedImage(tiles, tiling, digest)


def _bad(path: Path, problem: str) -> RequestError:
    return RequestError(f"{path}: {problem}")
