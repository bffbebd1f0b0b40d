"""Questions about a long text, which is read once: the second run of this program finds its keys and values on disk.

    python examples/long_text.py book.txt kv-store [ENGINE.l4e] < questions.txt  # without ENGINE.l4e, the demo model

Each question is asked of a branch of the session, so that no answer depends on the question before.
"""

import hashlib
import sys
from pathlib import Path

from llama4rt import Engine, SamplingParams


def main(text_path: str, store: str, engine_path: str | None) -> None:
    text = Path(text_path).read_text(encoding="utf-8")
    name = "text-" + hashlib.sha256(text.encode()).hexdigest()[:16]  # another text is another session
    params = SamplingParams(temperature=0, max_tokens=64)
    with Engine(engine_path, kv_store=store) as engine, engine.session(name) as session:
        if session.num_tokens == 0:
            session.append([{"role": "user", "content": text}])
            print(f"read: {session.num_tokens} tokens")
        for line in sys.stdin:
            if not line.strip():
                continue
            with session.fork() as branch:  # without a name: kept no longer than it is open
                answer = branch.generate([{"role": "user", "content": line.strip()}], params)
            print(f"{line.strip()} -> {answer.text} [{answer.num_cached_tokens} tokens reused]")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
