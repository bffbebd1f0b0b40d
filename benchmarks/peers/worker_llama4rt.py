"""llama4rt as a worker (protocol.py): worker_llama4rt.py ENGINE THREADS CONTEXT BATCH ACTIVATIONS KV_DTYPE"""

from __future__ import annotations

import sys

from llama4rt import _core
from llama4rt.cli.bench import Bench
from protocol import serve


class Llama4rt(Bench):
    """The same measurements as `llama4rt bench`: greedy sampling is inside the decode figure."""

    def __init__(
        self, path: str, activations: str, kv_dtype: str, threads: int, context: int, batch: int
    ) -> None:
        super().__init__(
            _core.Engine(
                path,
                num_threads=threads,
                max_model_len=context,
                max_num_seqs=batch,
                activations=activations,
                kv_cache_dtype=kv_dtype,
            )
        )

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self._submit(prompt, count, use_prefix_cache=False)
        ids = []
        while self._core.has_work():
            ids += [token_id for event in self._step() for token_id in event.token_ids]
        return ids


if __name__ == "__main__":
    serve(lambda: Llama4rt(sys.argv[1], sys.argv[5], sys.argv[6], *map(int, sys.argv[2:5])))
