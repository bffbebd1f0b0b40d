"""The JSON files that an engine file carries beside its tensors, such as `tokenizer_config.json`."""

import json
from collections.abc import Callable
from typing import Any

from llama4rt.errors import EngineFileError


def read_json_object(read_file: Callable[[str], bytes | None], name: str) -> dict[str, Any]:
    """The object in the file of this name; empty where there is no such file, or it holds something else.

    `read_file` gives a file's bytes, or None where there is none. Raises EngineFileError where it is not JSON.
    """
    data = read_file(name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EngineFileError(f"{name}: {error}") from None
    return value if isinstance(value, dict) else {}
