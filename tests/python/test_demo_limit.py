"""The demo's generation config limits an answer where the request does not."""

from __future__ import annotations

from llama4rt import Engine, SamplingParams
from llama4rt.demo import engine_path


def test_an_answer_without_a_limit_of_its_own_ends_at_max_new_tokens() -> None:
    chat = [{"role": "user", "content": "hi"}]
    with Engine(str(engine_path())) as engine:

        def length(**more: int | bool | None) -> int:
            params = SamplingParams(ignore_eos=True, **more)  # type: ignore[arg-type]
            return len(engine.chat(chat, params)[0].outputs[0].token_ids)

        assert length(max_tokens=None) == 256
        assert length(max_tokens=300) == 300
        assert length(max_tokens=None, min_tokens=270) == 270
