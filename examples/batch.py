"""Plain batch: many prompts through one engine, no server. Prints one JSON line for each.

python examples/batch.py ENGINE.l4e < prompts.txt  # without ENGINE.l4e, the demo model
"""

import json
import sys

from llama4rt import Engine, SamplingParams


def main(path: str | None) -> None:
    prompts = [line.strip() for line in sys.stdin if line.strip()]
    with Engine(path) as engine:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        results = engine.chat(conversations, SamplingParams(temperature=0, max_tokens=64))
        for prompt, result in zip(prompts, results, strict=True):
            print(json.dumps({"prompt": prompt, "answer": result.text}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
