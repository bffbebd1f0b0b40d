"""A service of your own with the engine inside: no second process, no HTTP between them.

    ENGINE=model.l4e uvicorn --app-dir examples fastapi_service:app

A client that leaves cancels the coroutine that reads its request, and that frees the request's memory.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from llama4rt import AsyncEngine, RequestError, SamplingParams
from pydantic import BaseModel


class Question(BaseModel):
    text: str
    max_tokens: int = 64


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncEngine(os.environ["ENGINE"], kv_cache_memory=os.environ.get("KV_CACHE_MEMORY")) as engine:
        app.state.engine = engine
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/summary")
async def summary(question: Question) -> dict[str, str]:
    """The whole answer."""
    engine: AsyncEngine = app.state.engine
    try:
        params = SamplingParams(temperature=0, max_tokens=question.max_tokens)
        prompt = await engine.prepare_chat([{"role": "user", "content": question.text}])
        texts = [delta.text async for delta in engine.stream(prompt, params)]
    except RequestError as error:
        raise HTTPException(400, str(error)) from None
    return {"answer": "".join(texts)}


@app.post("/stream")
async def stream(question: Question) -> StreamingResponse:
    """The answer as it comes, as plain text."""
    engine: AsyncEngine = app.state.engine
    params = SamplingParams(temperature=0, max_tokens=question.max_tokens)
    prompt = await engine.prepare_chat([{"role": "user", "content": question.text}])

    async def pieces() -> AsyncIterator[str]:
        async for delta in engine.stream(prompt, params):
            yield delta.text

    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8")
