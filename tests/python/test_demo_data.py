"""The demo model's generators: right answers, the package's own chat layout, and needles where they may stand."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from llama4rt.images.processing import normalisation_table

from tools.demo_model import documents, questions, scenes
from tools.demo_model.chat import default_chat, prompt
from tools.demo_model.held_out import KINDS, held_out
from tools.demo_model.model import CHUNK
from tools.demo_model.needles import NeedleMaker
from tools.demo_model.pixels import picture_tiles, plan


def test_training_layout_is_the_chat_templates() -> None:
    chat = default_chat()
    rng = np.random.default_rng(0)
    for seed in range(30):
        scene = scenes.random_scene(rng)
        system = documents.SYSTEM_PROMPTS[seed % 3] if seed % 2 else None
        turns = [questions.scene_question(scene, rng)[1:], documents.sum_question(rng)]
        turns.append(documents.json_question(rng))
        plans = [plan(scene.draw())]
        encoded = chat.conversation(turns, system, plans)
        messages = [{"role": "system", "content": system}] if system else []
        for i, (question, answer) in enumerate(turns):
            text = {"type": "text", "text": question}
            messages.append({"role": "user", "content": [{"type": "image"}, text] if i == 0 else question})
            messages.append({"role": "assistant", "content": answer})
        last = messages.pop()["content"]
        ids = prompt(chat, messages, plans)
        assert encoded.ids == [*ids, *chat.encode(last), chat.special["<|eot|>"]]


def test_held_out_questions_are_stable_and_answered_right() -> None:
    for kind in KINDS:
        first, again = held_out(kind, 5), held_out(kind, 5)
        assert [q.answer for q in first] == [q.answer for q in again]
        assert all(q.is_right(q.answer) and not q.is_right(q.answer + " x") for q in first)
    assert held_out("sum", 5, seed=1)[0].answer != held_out("sum", 5, seed=2)[0].answer


def test_held_out_sums_are_never_trained() -> None:
    rng = np.random.default_rng(0)
    trained = {documents.sum_question(rng)[0] for _ in range(20_000)}
    assert not trained & {q.messages[-1]["content"] for q in held_out("sum", 500)}


@pytest.mark.parametrize("chunks", [1, 2, 4, 16])
def test_needles_stand_inside_chunks(chunks: int) -> None:
    chat = default_chat()
    maker = NeedleMaker(chat)
    rng = np.random.default_rng(chunks)
    for _ in range(40):
        needle = maker.make(rng, chunks, 2 if chunks == 1 else 5, 1, None)
        question = needle.question(needle.asked[0])
        answer = needle.answer(needle.asked[0])
        encoded = chat.conversation([(f"{needle.text} {question}", answer)])
        assert (chunks - 1) * CHUNK < len(encoded.ids) <= chunks * CHUNK
        text = chat.tokenizer.decode(encoded.ids, skip_special_tokens=False)
        asked_at = len(chat.encode(text[: text.rindex(question)])) if chunks == 1 else None
        assert asked_at is None or asked_at < CHUNK
        position = 1 + chat.open_length("user") + len(chat.encode("Read this text."))
        for sentence in needle.text.removeprefix("Read this text. ").split(". "):
            length = len(chat.encode(f" {sentence.removesuffix('.')}."))
            if any(value in sentence for _, value in needle.facts):
                assert position // CHUNK == (position + length - 1) // CHUNK, sentence
            position += length
        assert position // CHUNK == chunks - 1, "the question begins in the last chunk"


def test_stories_and_calls_have_their_form() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        question, story = documents.story_question(rng)
        assert documents.is_good_story(question, story)
        assert not documents.is_good_story(question, story.rsplit(" ", 3)[0])
        tools, _, call = documents.tool_question(rng)
        assert json.loads(call)["name"] in {t["function"]["name"] for t in tools}


def test_pixels() -> None:
    table = np.array(normalisation_table(), np.float32)
    assert table[[0, 127, 128, 255]].tolist() == [-1, -0.00390625, 0.0078125, 1]
    rng = np.random.default_rng(0)
    for _ in range(20):
        picture = scenes.random_scene(rng).draw()
        tiles = picture_tiles(picture)
        assert tiles.shape == (plan(picture).num_tiles, 3, 48, 48)
        assert np.isin(tiles, table).all()


def test_the_fast_training_forward_is_the_stock_one() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools.demo_model.fast_model import FastModel
    from tools.demo_model.model import new_model

    chat = default_chat()
    model = new_model("small", chat.tokenizer.vocab_size, chat.special, seed=3).eval()
    rng = np.random.default_rng(3)
    picture = scenes.random_scene(rng).draw()
    text = NeedleMaker(chat).make(rng, 3, 3, 1)
    turns = [(text.text, "Yes."), ("What is it?", "A star.")]
    ids = chat.conversation(turns, None, [plan(picture)]).ids[: 4 * CHUNK]
    ids += [chat.special["<|finetune_right_pad|>"]] * (-len(ids) % CHUNK)
    assert len(ids) >= 3 * CHUNK  # several chunks
    pixels = torch.from_numpy(picture_tiles(picture))
    with torch.no_grad():
        stock = model(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits
        fast = FastModel(model)
        features = fast.tile_features(pixels).flatten(0, 1)
        hidden, _ = fast.hidden(torch.tensor([ids]), features)
        ours = fast.logits(hidden)
    assert float((ours - stock).abs().max()) < 1e-4 * max(1.0, float(stock.abs().max()))
