"""What /v1/responses keeps, with the official client: chains, restarts, two keys, bounds, damage."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

import httpx2  # noqa: E402
from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.errors import ConfigError  # noqa: E402
from llama4rt.server.kept.database import Database, Item  # noqa: E402
from serve_process import ServeProcess  # noqa: E402
from serving import RunningServer, engine_fixture, running_server  # noqa: E402

KEYS = ("first-key", "second-key")
engine = engine_fixture(kv_cache_memory="64MiB")


def client_of(server: RunningServer, key: str = KEYS[0]) -> Any:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: Any) -> Iterator[RunningServer]:
    where = str(tmp_path_factory.mktemp("kept"))
    with running_server(engine, api_keys=KEYS, response_store=where) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


def respond(client: Any, given: Any, **fields: Any) -> Any:
    fields = {
        "model": server_model(client),
        "input": given,
        "temperature": 0,
        "max_output_tokens": 24,
    } | fields
    return client.responses.create(**fields)


def server_model(client: Any) -> str:
    return str(client.models.list().data[0].id)


def answer(engine: Engine, *messages: tuple[str, str]) -> str:
    said = [{"role": role, "content": text} for role, text in messages]
    return engine.chat(said, SamplingParams(temperature=0, max_tokens=24))[0].outputs[0].text  # type: ignore[arg-type]


def until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while True:
        try:
            return check()
        except openai.NotFoundError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_chain_is_the_conversation_and_instructions_are_not_inherited(client: Any, engine: Engine) -> None:
    first = respond(client, "What is 2 plus 3?", instructions="Be short.", metadata={"a": "b"})
    assert first.store is True
    second = respond(client, "And 4 plus 5?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    messages = [("user", "What is 2 plus 3?"), ("assistant", first.output_text), ("user", "And 4 plus 5?")]
    assert second.output_text == answer(engine, *messages)
    kept = client.responses.retrieve(first.id)
    assert kept.model_dump() == first.model_dump()


def test_input_items_are_paged(client: Any) -> None:
    first = respond(client, "one")
    second = respond(client, [{"role": "user", "content": "two"}], previous_response_id=first.id)
    ids = [item.id for item in client.responses.input_items.list(second.id, limit=1)]  # page by page
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.id for item in items] == ids[::-1] and len(set(ids)) == 3
    assert [item.content[0].text for item in items] == ["one", first.output_text, "two"]
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert client.responses.input_items.list(second.id, order="asc", after=items[0].id).data == items[1:]
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_0"}):
        with pytest.raises(openai.BadRequestError):
            client.responses.input_items.list(second.id, **wrong)


def test_what_is_deleted_or_foreign_or_never_was_is_not_found(server: RunningServer, client: Any) -> None:
    mine, gone = respond(client, "Hi"), respond(client, "Hi")
    after = respond(client, "Go on", previous_response_id=gone.id)
    client.responses.delete(gone.id)
    assert respond(client, "More", previous_response_id=after.id).status in ("completed", "incomplete")
    with client_of(server, KEYS[1]) as other:
        cases = [(other, mine.id), (client, gone.id), (client, "resp_0"), (client, "conv_1")]
        cases += [(client, id) for id in ("resp_%00", "resp_' OR 1=1 --", "resp_" + "x" * 4000, "resp_é")]
        for who, id in cases:
            for call in (who.responses.retrieve, who.responses.delete, who.responses.input_items.list):
                with pytest.raises(openai.NotFoundError) as caught:
                    call(id)
                assert "not found" in caught.value.body["message"]
            with pytest.raises(openai.BadRequestError) as refused:
                respond(who, "Hi", previous_response_id=id)
            assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(mine.id).id == mine.id


def test_a_stream_is_kept_and_one_that_is_left_is_cancelled(client: Any, server: RunningServer) -> None:
    with client.responses.stream(model=server_model(client), input="Hello", temperature=0) as stream:
        final = stream.get_final_response()
    assert client.responses.retrieve(final.id).output_text == final.output_text
    events = respond(
        client, "Hello", stream=True, max_output_tokens=3000, extra_body={"ignore_eos": True}, temperature=1
    )
    begun = next(iter(events)).response
    for _ in range(6):
        next(events)
    events.close()
    kept = until(lambda: client.responses.retrieve(begun.id))
    assert kept.status == "cancelled" and kept.output[0].status == "incomplete" and kept.output_text
    server.wait_idle()


def test_store_false_keeps_nothing_and_a_server_without_a_place_says_so(engine: Engine, client: Any) -> None:
    reply = respond(client, "Hi", store=False)
    assert reply.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)
    with running_server(engine) as server, client_of(server) as bare:
        assert respond(bare, "Hi", store=True).store is False
        for call in (
            lambda: bare.responses.retrieve("resp_1"),
            lambda: bare.conversations.create(),
        ):
            with pytest.raises(openai.NotFoundError, match="--response-store"):
                call()
        for field in ("previous_response_id", "conversation"):
            with pytest.raises(openai.BadRequestError, match="--response-store") as caught:
                respond(bare, "Hi", **{field: "resp_1"})
            assert caught.value.param == field


def test_a_conversation_grows_by_items_and_by_answers(
    client: Any, engine: Engine, server: RunningServer
) -> None:
    said = [{"type": "message", "role": "user", "content": "Hello"}]
    talk = client.conversations.create(items=said, metadata={"topic": "shapes"})
    reply = respond(client, "What can you do?", conversation=talk.id)
    assert reply.output_text == answer(engine, ("user", "Hello"), ("user", "What can you do?"))
    assert reply.conversation.id == talk.id
    items = list(client.conversations.items.list(talk.id, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant"]
    (more,) = client.conversations.items.create(talk.id, items=said).data
    assert client.conversations.items.retrieve(more.id, conversation_id=talk.id).id == more.id
    client.conversations.items.delete(more.id, conversation_id=talk.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(more.id, conversation_id=talk.id)
    assert client.conversations.update(talk.id, metadata={"topic": "sums"}).metadata == {"topic": "sums"}
    with pytest.raises(openai.BadRequestError, match="exclude"):
        respond(client, "Hi", conversation=talk.id, previous_response_id=reply.id)
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.conversations.create(items=[{"type": "item_reference", "id": "x"}])
    with client_of(server, KEYS[1]) as other, pytest.raises(openai.NotFoundError):
        other.conversations.retrieve(talk.id)
    client.conversations.delete(talk.id)
    with pytest.raises(openai.NotFoundError):
        respond(client, "Hi", conversation=talk.id)


def test_restart_then_damage(engine: Engine, tmp_path: Path, caplog: Any) -> None:
    @contextmanager
    def served() -> Iterator[Any]:
        with running_server(engine, response_store=str(tmp_path)) as server, client_of(server) as client:
            yield client

    with served() as client:
        first = respond(client, "What is 2 plus 3?")
    with served() as client:
        assert client.responses.retrieve(first.id).output_text == first.output_text
        assert respond(
            client, "Go on", previous_response_id=first.id
        ).usage.input_tokens_details.cached_tokens
    path = tmp_path / "responses-v1.sqlite3"
    assert path.stat().st_mode & 0o077 == 0
    for part in tmp_path.glob("responses-v1.sqlite3-*"):
        part.unlink()
    path.write_bytes(b"no database at all" * 1000)
    with served() as client:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        again = respond(client, "Hi")
        assert client.responses.retrieve(again.id).id == again.id
    assert list(tmp_path.glob("*.damaged-*")) and "is damaged" in caplog.text


def test_a_conversation_that_did_not_grow_says_so(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(engine, response_store=str(tmp_path)) as server, client_of(server) as client:
        talk = client.conversations.create()
        assert respond(client, "Hi", conversation=talk.id).store is True
        monkeypatch.setattr(server.service.responses.database, "append", lambda *args, **options: False)
        assert respond(client, "Hi", conversation=talk.id).store is False


def test_a_full_disk_or_a_held_file_costs_the_keeping_and_not_the_answer(
    engine: Engine, tmp_path: Path, caplog: Any
) -> None:
    with running_server(engine, response_store=str(tmp_path)) as server, client_of(server) as client:
        first = respond(client, "Hi")
        db = server.service.responses.database._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        reply = respond(client, "square " * 3000)
        assert reply.output_text and reply.store is False and "full" in caplog.text
        db.execute("PRAGMA max_page_count = 100000")
        db.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(tmp_path / "responses-v1.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert respond(client, "Hi").store is False and "locked" in caplog.text
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.retrieve(first.id)
        assert caught.value.status_code == 503
        other.execute("COMMIT")
        other.close()
        assert respond(client, "Hi", previous_response_id=first.id).store is True


def test_a_killed_server_has_kept_what_it_answered(tmp_path: Path) -> None:
    """And the keys and values: both lie in the directory of --kv-store."""
    options = ("--kv-store", str(tmp_path), "--kv-cache-memory", "64MiB", "--threads", "1")
    text = "There was a red square on a hill. " * 40
    with (
        ServeProcess(*options) as process,
        openai.OpenAI(base_url=process.url + "/v1", api_key="-") as client,
    ):
        first = respond(client, text)
        until_written(tmp_path)
    with (
        ServeProcess(*options) as process,
        openai.OpenAI(base_url=process.url + "/v1", api_key="-") as client,
    ):
        assert client.responses.retrieve(first.id).output_text == first.output_text
        second = respond(client, "Go on", previous_response_id=first.id)
        assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens - 40


def until_written(store: Path) -> None:
    """Until blocks of keys and values do not grow any more."""
    sizes: list[int] = []
    while len(sizes) < 4 or len(set(sizes[-4:])) > 1 or sizes[-1] == 0:
        assert len(sizes) < 200
        time.sleep(0.1)
        sizes.append(sum(path.stat().st_size for path in store.glob("*.kvs")))


# --- the file alone


def items(*texts: str) -> list[Item]:
    return [Item(f"msg_{text[:8]}", '"' + text + '"') for text in texts]


def test_bounds_and_time(tmp_path: Path) -> None:
    now = [1000.0]
    store = Database(tmp_path, max_bytes=400_000, max_count=10, clock=lambda: now[0])
    for i in range(25):
        now[0] += 1
        assert store.save("", f"resp_{i}", "{}", seconds=100)
    assert [i for i in range(25) if store.body("", f"resp_{i}")] == list(range(15, 25))
    for i in range(40):
        now[0] += 1
        assert store.save("", f"resp_big{i}", "{}", seconds=1000, inputs=items(f"{i:08}" + "x" * 30_000))
    left = [i for i in range(40) if store.body("", f"resp_big{i}")]
    assert 5 < len(left) <= 10 and left == list(range(40 - len(left), 40))
    assert not store.save("", "resp_huge", "{}", seconds=9, inputs=items("y" * 500_000))
    assert store.body("", "resp_huge") is None and store.body("", "resp_big39")
    now[0] += 2000
    assert store.body("", "resp_big39") is None
    assert store.save("", "resp_new", "{}", seconds=9)
    db = sqlite3.connect(store.path)
    assert db.execute("SELECT count(*) FROM items").fetchone() == (0,), "texts go with the last that has them"
    db.close()
    store.close()  # what is in the log beside the file comes into it
    assert b"xxxxxxxx" not in b"".join(part.read_bytes() for part in tmp_path.glob("*sqlite3"))


def test_a_chain_keeps_each_item_once_and_loses_none(tmp_path: Path) -> None:
    store = Database(tmp_path, max_bytes=1 << 30, max_count=1000)
    store.save("", "resp_0", "{}", seconds=9, inputs=items("a"), outputs=items("b"))
    before = store.context("", "resp_0", outputs=True)
    assert before is not None and [item.data for item in before] == ['"a"', '"b"']
    store.save("", "resp_1", "{}", seconds=9, inputs=[*before, *items("c")])
    count = "SELECT count(*) FROM items"
    assert sqlite3.connect(store.path).execute(count).fetchone() == (3,)
    store.delete("", "resp_0")
    assert [item.data for item in store.context("", "resp_1", outputs=False) or ()] == ['"a"', '"b"', '"c"']
    assert store.context("other", "resp_1", outputs=True) is None
    store.delete("", "resp_1")
    assert sqlite3.connect(store.path).execute(count).fetchone() == (0,)
    # It was deleted while its successor was answered; and an id never leads to another's item.
    store.save("", "resp_2", "{}", seconds=9, inputs=[*before, Item("msg_mine", '"d"', row=before[0].row)])
    assert [item.data for item in store.context("", "resp_2", outputs=False) or ()] == ['"a"', '"b"', '"d"']


def test_pages_that_are_flipped_while_it_runs_cost_what_was_kept(tmp_path: Path, caplog: Any) -> None:
    store = Database(tmp_path, max_bytes=1 << 30, max_count=1000)
    for i in range(50):
        store.save("", f"resp_{i}", "{}", seconds=9, inputs=items("z" * 5000))
    store.close()
    data = bytearray(store.path.read_bytes())
    data[4096 : len(data)] = b"\xff" * (len(data) - 4096)
    store.path.write_bytes(data)
    assert store.body("", "resp_3") is None and "is damaged" in caplog.text
    assert store.save("", "resp_4", "{}", seconds=9) and store.body("", "resp_4") == "{}"


def test_a_place_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no place for responses"):
        Database(tmp_path / "file", max_bytes=1, max_count=1)


def test_paths_say_what_they_take(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    reply = httpx2.put(server.url + "/v1/responses/resp_1", headers=headers)
    assert reply.status_code == 405 and reply.headers["allow"] == "GET, HEAD, DELETE"
    assert httpx2.delete(server.url + "/v1/responses/resp_1").status_code == 401
    assert "DELETE /v1/responses/{id}" in httpx2.get(server.url + "/nothing", headers=headers).text
