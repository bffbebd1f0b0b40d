"""The demo model's generators: right answers, the package's own chat layout, and needles where they may stand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from llama4rt.images.processing import normalisation_table

from tools.demo_model import documents, openings, questions, scenes
from tools.demo_model.chat import default_chat, prompt
from tools.demo_model.held_out import KINDS, held_out
from tools.demo_model.model import CHUNK
from tools.demo_model.needles import NeedleMaker
from tools.demo_model.pixels import picture_tiles, tiling
from tools.demo_model.pool import LABELS, token_labels


def test_training_layout_is_the_chat_templates() -> None:
    chat = default_chat()
    rng = np.random.default_rng(0)
    for seed in range(30):
        scene = scenes.random_scene(rng)
        system = documents.SYSTEM_PROMPTS[seed % 3] if seed % 2 else None
        turns = [questions.scene_question(scene, rng)[1:], documents.sum_question(rng)]
        turns.append(documents.json_question(rng))
        tilings = [tiling(scene.draw())]
        encoded = chat.conversation(turns, system, tilings)
        messages = [{"role": "system", "content": system}] if system else []
        for i, (question, answer) in enumerate(turns):
            text = {"type": "text", "text": question}
            messages.append({"role": "user", "content": [{"type": "image"}, text] if i == 0 else question})
            messages.append({"role": "assistant", "content": answer})
        last = messages.pop()["content"]
        ids = prompt(chat, messages, tilings)
        assert encoded.ids == [*ids, *chat.encode(last), chat.special["<|eot|>"]]


def test_held_out_questions_are_stable_and_answered_right() -> None:
    for kind in KINDS:
        first, again = held_out(kind, 5), held_out(kind, 5)
        assert [q.answer for q in first] == [q.answer for q in again]
        assert all(q.is_right(q.answer) and not q.is_right(q.answer + " x") for q in first)
    assert held_out("sum", 5, seed=1)[0].answer != held_out("sum", 5, seed=2)[0].answer


def test_answers_about_pictures_are_true() -> None:
    """Read back from the answer's own words and checked against the scene."""
    rng = np.random.default_rng(5)
    sides = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}
    asked = set()
    for _ in range(600):
        scene = scenes.random_scene(rng)
        kind, question, answer = questions.scene_question(scene, rng)
        asked.add(kind)
        by_shape = {t.shape: t for t in scene.things}
        at = {t.place: t for t in scene.things}
        words = answer.rstrip(".").split(" ")
        named = [w.strip("?") for w in question.split(" ") if w.strip("?") in scenes.SHAPES]
        if kind == "where":
            assert at[answer.removeprefix(f"The {named[0]} is ").rstrip(".")] is by_shape[named[0]]
        elif kind == "what_at":
            place = question.removeprefix("What is at the ").rstrip("?")
            assert answer == f"At the {place} a {at[place].size} {at[place].name}."
        elif kind == "count":
            assert questions.NUMBERS.index(words[-1]) == len(scene.things)
        elif kind == "exists":
            colour, shape = question.rstrip("?").split(" ")[-2:]
            there = any((t.colour, t.shape) == (colour, shape) for t in scene.things)
            assert words[-1] == ("yes" if there else "no")
            assert (" not there" in answer) == (shape not in by_shape)
        elif kind in ("relation", "beside"):
            axis, sign = next(value for side, value in sides.items() if side in question)
            cells = [(t.row, t.col)[axis] * sign for t in scene.things]
            if kind == "relation":
                a, b = ((by_shape[n].row, by_shape[n].col)[axis] * sign for n in named)
                assert words[-1] == ("yes" if a > b else "no")
            else:
                shape, colour = words[-1], words[-2]
                other = (by_shape[named[-1]].row, by_shape[named[-1]].col)[axis] * sign
                found = [t for t, c in zip(scene.things, cells, strict=True) if c > other]
                assert [(t.shape, t.colour) for t in found] == [(shape, colour)]
    assert asked == set(questions.KINDS)


def test_labels_name_the_token_that_is_an_object_s_cell() -> None:
    rng = np.random.default_rng(6)
    kinds = list(LABELS)
    for small in (True, False):
        for _ in range(40):
            scene = scenes.random_scene(rng, small=small)
            p = tiling(scene.draw())
            labels, _ = token_labels(scene, p)
            place, rank, total = (labels[..., kinds.index(k)] for k in ("place", "rank", "total"))
            assert not place[:-1].any() and not total[:-1].any()  # parts of a picture
            assert sorted(place[-1][place[-1] > 0]) == sorted(3 * t.row + t.col + 1 for t in scene.things)
            for i, thing in enumerate(scene.things, 1):
                token = labels[-1, 3 * thing.row + thing.col]
                assert token[kinds.index("rank")] == i
                assert token[kinds.index("shape")] == scenes.SHAPES.index(thing.shape) + 1
                assert token[kinds.index("colour")] == list(scenes.COLOURS).index(thing.colour) + 1
            assert (rank > 0).sum() == len(scene.things) and (total[-1] == len(scene.things)).all()


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


def test_training_goes_on_only_with_the_model_it_began_with(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from tools.demo_model.train import check_init

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    state = tmp_path / "state"
    check_init(state, tmp_path / "one")
    check_init(state, tmp_path / "two")  # nothing trained yet
    (state / "tower.pt").touch()
    check_init(state, tmp_path / "two")
    for other in (tmp_path / "one", None):
        with pytest.raises(SystemExit, match=r"tower\.pt is of a run .* --state"):
            check_init(state, other)


def test_pixels() -> None:
    table = np.array(normalisation_table(), np.float32)  # tested in test_parity_images.py
    rng = np.random.default_rng(0)
    for _ in range(20):
        picture = scenes.random_scene(rng).draw()
        tiles = picture_tiles(picture)
        assert tiles.shape == (tiling(picture).num_tiles, 3, 48, 48)
        assert np.isin(tiles, table).all()


def test_the_fast_training_forward_is_the_stock_one() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools import stock_model
    from tools.demo_model.fast_model import FastModel
    from tools.demo_model.model import new_model

    chat = default_chat()
    model = new_model("small", chat.tokenizer.vocab_size, chat.special, seed=3).eval()
    rng = np.random.default_rng(3)
    picture = scenes.random_scene(rng).draw()
    text = NeedleMaker(chat).make(rng, 3, 3, 1)
    turns = [(text.text, "Yes."), ("What is it?", "A star.")]
    ids = chat.conversation(turns, None, [tiling(picture)]).ids[: 4 * CHUNK]
    ids += [chat.special["<|finetune_right_pad|>"]] * (-len(ids) % CHUNK)
    assert len(ids) >= 3 * CHUNK  # several chunks
    pixels = torch.from_numpy(picture_tiles(picture))
    with torch.no_grad():
        stock = stock_model.logits(model, torch.tensor([ids]), pixels)
        fast = FastModel(model)
        features = fast.tile_features(pixels).flatten(0, 1)
        hidden, _ = fast.hidden(torch.tensor([ids]), features)
        ours = fast.logits(hidden)
    assert float((ours - stock).abs().max()) < 1e-4 * max(1.0, float(stock.abs().max()))


def test_held_out_openings_are_never_trained() -> None:
    trained = {openings._bare(text) for topic in openings.ANSWERS for text in openings.wordings(topic, False)}
    trained |= {openings._bare(text) for text in documents.TALK_WORDINGS}
    asked = held_out("opening", 300)
    texts = [q.messages[-1]["content"] for q in asked]
    assert len(set(texts)) == 300 and {q.detail for q in asked} == set(openings.ANSWERS)
    assert not trained & {openings._bare(text) for text in texts}
    rng = np.random.default_rng(3)
    for _ in range(300):
        assert not openings.is_held_out(openings.opening_question(rng)[0])
    chat = default_chat()
    assert all(len(chat.encode(answer)) < openings.MAX_TOKENS for answer in openings.ANSWERS.values())
    assert openings.is_sensible("who", openings.ANSWERS["help"])
    assert not openings.is_sensible("hello", openings.ANSWERS["help"])
