"""Hugging Face transformers as a worker (protocol.py): worker_transformers.py CHECKPOINT THREADS [DTYPE]"""

from __future__ import annotations

import sys
import time

import torch
from protocol import serve
from transformers import Llama4ForCausalLM


class Transformers:
    """Batch 1 only, depth 0 only: the rest takes minutes."""

    def __init__(self, path: str, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        self._model = Llama4ForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        self._vocab_size = self._model.config.vocab_size

    @torch.inference_mode()
    def prefill(self, tokens: int, depth: int, batch: int) -> float:
        self._only(depth, batch)
        ids = torch.randint(self._vocab_size, (1, tokens))
        start = time.perf_counter()
        self._model(ids, use_cache=True, logits_to_keep=1)
        return tokens / (time.perf_counter() - start)

    @torch.inference_mode()
    def decode(self, tokens: int, depth: int, batch: int) -> float:
        self._only(depth, batch)
        out = self._model(torch.randint(self._vocab_size, (1, 1)), use_cache=True)
        start = time.perf_counter()
        for _ in range(tokens):
            token = out.logits[:, -1:].argmax(-1)
            out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
        return tokens / (time.perf_counter() - start)

    @torch.inference_mode()
    def greedy(self, prompt: list[int], count: int) -> list[int]:
        out = self._model(torch.tensor([prompt]), use_cache=True)
        ids: list[int] = []
        while True:
            ids.append(int(out.logits[0, -1].argmax()))
            if len(ids) == count:
                return ids
            out = self._model(torch.tensor([ids[-1:]]), past_key_values=out.past_key_values, use_cache=True)

    @staticmethod
    def _only(depth: int, batch: int) -> None:
        if depth > 0 or batch > 1:
            raise ValueError("transformers is measured at depth 0 and batch 1 only")


if __name__ == "__main__":
    serve(lambda: Transformers(sys.argv[1], int(sys.argv[2]), (*sys.argv[3:], "bfloat16")[0]))
