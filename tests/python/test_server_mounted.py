"""The application inside another one, below a path; its lifespan; and what is said of paths that lead nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("msgspec")

from fastapi.testclient import TestClient  # noqa: E402
from llama4rt import AsyncEngine, Engine  # noqa: E402
from llama4rt.server import ServerOptions, build_app  # noqa: E402
from serving import engine_fixture  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.routing import Mount  # noqa: E402

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 24}

engine = engine_fixture(kv_cache_memory="64MiB")


def application(engine: Engine, **options: Any) -> Any:
    return build_app(AsyncEngine(engine), ServerOptions(allowed_hosts=("testserver",), **options))


def in_fastapi(engine: Engine, **options: Any) -> Any:
    app = fastapi.FastAPI()

    @app.get("/own")
    def own() -> dict[str, str]:
        return {"own": "yes"}

    app.mount("/llm/deep", application(engine, **options))
    return app


def in_starlette(engine: Engine, **options: Any) -> Any:
    return Starlette(routes=[Mount("/llm/deep", app=application(engine, **options))])


@pytest.mark.parametrize("outer", [in_fastapi, in_starlette])
def test_mounted_below_a_path(engine: Engine, outer: Any) -> None:
    expected = engine.chat(HELLO["messages"], _greedy())[0].text  # type: ignore[arg-type]
    with TestClient(outer(engine)) as client:
        chat = client.post("/llm/deep/v1/chat/completions", json=HELLO)
        assert chat.json()["choices"][0]["message"]["content"] == expected
        assert client.get("/llm/deep/v1/models").json()["data"][0]["id"] == "demo"
        assert client.get("/llm/deep/v1/models/demo").json()["id"] == "demo"
        assert client.get("/llm/deep/health").json() == {"status": "ok"}
        page = client.get("/llm/deep/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert client.get("/v1/models").status_code == 404
        assert "there are GET /," in client.get("/llm/deep/nothing").json()["error"]["message"]
        streamed = client.post("/llm/deep/v1/chat/completions", json=HELLO | {"stream": True}).text
        assert streamed.rstrip().endswith("[DONE]")
    if outer is in_fastapi:
        with TestClient(outer(engine)) as client:
            assert client.get("/own").json() == {"own": "yes"}


def _greedy() -> Any:
    from llama4rt import SamplingParams

    return SamplingParams(temperature=0, max_tokens=24)


@pytest.mark.parametrize("outer", [in_fastapi, in_starlette, application])
def test_the_guards_hold_when_mounted(engine: Engine, outer: Any) -> None:
    root = "" if outer is application else "/llm/deep"
    with TestClient(outer(engine, api_keys=("k",))) as client:
        assert client.get(root + "/health").status_code == 200  # open, by its own path
        assert client.get(root + "/v1/models").status_code == 401
        key = {"authorization": "Bearer k"}
        assert client.get(root + "/v1/models", headers=key).status_code == 200
        assert client.get(root + "/v1/models", headers={"x-api-key": "k"}).status_code == 200
        assert client.get(root + "/v1/models", headers={"x-api-key": "wrong"}).status_code == 401
        refused = client.get(root + "/v1/models", headers=key | {"host": "evil.example"})
        assert refused.status_code == 403
        assert client.get(root + "/health", headers={"host": "evil.example"}).status_code == 200
        refused = client.post(root + "/v1/messages", json={})
        assert refused.status_code == 401 and refused.json()["type"] == "error"


def test_a_path_that_begins_alike_is_another(engine: Engine) -> None:
    with TestClient(application(engine), root_path="/v1") as client:
        assert client.get("/models").status_code == 200  # a proxy took /v1 away
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1beta/models").status_code == 404


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    with TestClient(application(engine)) as client:
        yield client


def test_second_names(client: Any) -> None:
    assert client.get("/models").json() == client.get("/v1/models").json()
    chat = client.post("/chat/completions", json=HELLO).json()
    assert chat["choices"] == client.post("/v1/chat/completions", json=HELLO).json()["choices"]
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/embeddings", "no embeddings"),
        ("/v1/audio/speech", "hears and says nothing"),
        ("/v1/files/abc/content", "keeps nothing"),
        ("/v1/rerank", "does not rank"),
        ("/infill", "does not fill in"),
        ("/slots/0", "no slots"),
    ],
)
def test_what_is_not_here_says_why(client: Any, path: str, says: str) -> None:
    refused = client.post(path, json={})
    assert refused.status_code == 404 and says in refused.json()["error"]["message"]
    assert refused.json()["error"]["code"] == "not_supported"


def test_every_path_that_is_told_answers(client: Any) -> None:
    message = client.get("/nothing").json()["error"]["message"]
    told = [entry.split() for entry in message.partition("there are ")[2].split(", ")]
    assert len(told) > 20
    for method, path in told:
        assert client.request(method, path, json={} if method == "POST" else None).status_code in (
            200,
            400,
        ), path


def test_a_body_without_a_type_gets_a_hint(client: Any) -> None:
    refused = client.post(
        "/v1/chat/completions", content=b"{}", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert refused.status_code == 415 and "-H 'Content-Type: application/json'" in refused.text


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "foo", "content": "x"}], "messages.0.role: 'foo' is not known"),
        ([{"role": "user", "content": None}], "messages.0.content: is missing"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages.0.content.0: a part of type 'video'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.y/a.png"}}]}],
            "llama4rt serve --allow-image-urls",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                }
            ],
            "messages.0.content.0",
        ),
    ],
)
def test_messages_are_refused_in_the_words_of_json(client: Any, messages: Any, says: str) -> None:
    refused = client.post("/v1/chat/completions", json={"messages": messages})
    assert refused.status_code == 400 and says in refused.json()["error"]["message"], refused.text


def test_a_lifespan_begins_and_ends(engine: Engine) -> None:
    said: list[Any] = []

    async def main() -> None:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            said.append(message["type"])

        await application(engine)({"type": "lifespan"}, receive, send)
        await application(engine)({"type": "websocket", "path": "/"}, receive, send)

    asyncio.run(main())
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
