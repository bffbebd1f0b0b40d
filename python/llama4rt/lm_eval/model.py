"""Llama4rtLM: the class that the evaluation harness knows as `--model llama4rt`.

Import this module once before the harness looks for models; `python -m llama4rt.lm_eval` does. `--model_args
file=model.l4e` and any option of llama4rt.Engine, such as kv_cache_dtype or max_model_len.
"""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from llama4rt.engine.engine import Engine
from llama4rt.lm_eval.harness_requests import HarnessRequests


@register_model("llama4rt")
class Llama4rtLM(LM):
    """batch_size: how many requests run together at most (max_num_seqs); "auto" leaves it to the engine."""

    def __init__(
        self,
        file: str,
        *,
        begin_token: bool = True,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if batch_size not in (None, "auto", 1, "1"):  # 1 is what the harness says when nobody did
            options.setdefault("max_num_seqs", int(str(batch_size).removeprefix("auto:")))
        if device is not None:
            options["device"] = device
        self.engine = Engine(file, **options)
        self._requests = HarnessRequests(self.engine, begin_token=begin_token)

    @property
    def max_length(self) -> int:
        return self.engine.max_model_len

    @property
    def tokenizer_name(self) -> str:
        return str(self.engine.path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The file has one template; the harness only wants to know which."""
        return "llama4rt" if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self._requests.apply_chat_template(chat_history, add_generation_prompt)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        with self._bar("loglikelihood", requests, disable_tqdm) as bar:
            answers = self._requests.loglikelihood([request.args for request in requests], bar.update)
        return self._cached("loglikelihood", requests, answers)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        with self._bar("loglikelihood_rolling", requests, disable_tqdm) as bar:
            answers = self._requests.loglikelihood_rolling(
                [request.args[0] for request in requests], bar.update
            )
        return self._cached("loglikelihood_rolling", requests, answers)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        with self._bar("generate_until", requests, disable_tqdm) as bar:
            answers = self._requests.generate_until([request.args for request in requests], bar.update)
        return self._cached("generate_until", requests, answers)

    def _bar(self, what: str, requests: list[Instance], disabled: bool) -> "tqdm[Any]":
        return tqdm(total=len(requests), desc=f"llama4rt {what}", disable=disabled)

    def _cached(self, kind: str, requests: list[Instance], answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return answers


__all__ = ["Llama4rtLM"]
