"""llama.cpp as a worker (protocol.py): worker_llama_cpp.py GGUF THREADS CONTEXT BATCH FLASH_ATTENTION

Through llama-cpp-python's C interface, as llama-bench does it: random tokens, no sampling in the decode figure (ours
has it), f16 cache, weights repacked. FLASH_ATTENTION is 0 or 1.

    worker_llama_cpp.py quantise SOURCE OUT KIND THREADS      llama.cpp's own quantiser
"""

from __future__ import annotations

import ctypes
import random
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np
from protocol import serve

_BATCH_TOKENS = 2048  # llama.cpp's defaults
_MICRO_BATCH_TOKENS = 512


class LlamaCpp:
    """One model and context; sequences 0 to batch - 1, each with a cache of its own, as llama-batched-bench has it."""

    def __init__(self, path: str, threads: int, context: int, batch: int, flash: int) -> None:
        self._saved = f"{path}.flash{flash}"
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context * batch
        params.n_seq_max = batch
        params.n_batch = _BATCH_TOKENS
        params.n_ubatch = _MICRO_BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.kv_unified = False
        params.swa_full = False
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._random = random.Random(4)
        self._cached = 0  # tokens of sequence 0 in the cache, kept between tests

    def prefill(self, tokens: int, depth: int, batch: int) -> float:
        self._prepare(depth, batch)
        start = time.perf_counter()
        for sequence in range(batch):
            self._run([(self._token(), depth + i, sequence) for i in range(tokens)])
        llama_cpp.llama_synchronize(self._context)
        return batch * tokens / (time.perf_counter() - start)

    def decode(self, tokens: int, depth: int, batch: int) -> float:
        depth = max(depth, 1)
        self._prepare(depth, batch)
        start = time.perf_counter()
        for i in range(tokens):
            self._run([(self._token(), depth + i, s) for s in range(batch)], all_logits=True)
            llama_cpp.llama_synchronize(self._context)
        return batch * tokens / (time.perf_counter() - start)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self._prepare(0, 1)
        self._run([(token, i, 0) for i, token in enumerate(prompt)])
        ids: list[int] = []
        while True:
            logits = llama_cpp.llama_get_logits_ith(self._context, -1)
            ids.append(int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax()))
            if len(ids) == count:
                return ids
            self._run([(ids[-1], len(prompt) + len(ids) - 1, 0)])

    def _prepare(self, depth: int, batch: int) -> None:
        """`depth` cached tokens in each of `batch` sequences, and nothing else. A long cache is computed once and kept
        in a file beside the model.
        """
        for sequence in range(1, int(llama_cpp.llama_n_seq_max(self._context))):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if depth == self._cached and depth > 1:
            llama_cpp.llama_memory_seq_rm(self._memory, 0, depth, -1)
        else:
            llama_cpp.llama_memory_clear(self._memory, False)
            if depth < _BATCH_TOKENS or not self._load(depth):
                self._run([(self._token(), i, 0) for i in range(depth)])
                if depth >= _BATCH_TOKENS:
                    self._save(depth)
        self._cached = depth
        for sequence in range(1, batch):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        llama_cpp.llama_synchronize(self._context)

    def _load(self, depth: int) -> bool:
        path = f"{self._saved}.{depth}"
        if not Path(path).is_file():
            return False
        tokens, count = (llama_cpp.llama_token * depth)(), ctypes.c_size_t()
        read = llama_cpp.llama_state_seq_load_file(
            self._context, path.encode(), 0, tokens, depth, ctypes.byref(count)
        )
        if read == 0 or count.value != depth:
            raise RuntimeError(f"{path} is not a cache of {depth} tokens; delete it")
        return True

    def _save(self, depth: int) -> None:
        tokens = (llama_cpp.llama_token * depth)()
        path = f"{self._saved}.{depth}"
        if llama_cpp.llama_state_seq_save_file(self._context, path.encode(), 0, tokens, depth) == 0:
            raise RuntimeError(f"llama.cpp cannot write {path}")

    def _run(self, rows: list[tuple[int, int, int]], all_logits: bool = False) -> None:
        """Decodes (token, position, sequence) rows; logits of the last one, or of all."""
        for first in range(0, len(rows), _BATCH_TOKENS):
            part = rows[first : first + _BATCH_TOKENS]
            b = self._batch
            b.n_tokens = len(part)
            for i, (token, position, sequence) in enumerate(part):
                b.token[i], b.pos[i], b.n_seq_id[i] = token, position, 1
                b.seq_id[i][0] = sequence
                b.logits[i] = all_logits or first + i == len(rows) - 1
            status = llama_cpp.llama_decode(self._context, b)
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status}")

    def _token(self) -> int:
        return self._random.randrange(self._vocab_size)


def quantise(source: str, out: str, kind: str, threads: int) -> None:
    """kind: "Q4_0", "Q4_K_M", "Q8_0", "F16"."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"llama_model_quantize returned {status} for {kind}")


if __name__ == "__main__":
    if sys.argv[1] == "quantise":
        quantise(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        serve(lambda: LlamaCpp(sys.argv[1], *map(int, sys.argv[2:6])))
