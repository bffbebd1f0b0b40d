"""A service of your own with the engine inside: no second process, no HTTP between them.

    pip install fastapi
    ENGINE=model.l4e uvicorn --app-dir examples fastapi_service:app  # without ENGINE, the demo model

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
    async with AsyncEngine(
        os.environ.get("ENGINE"), kv_cache_memory=os.environ.get("KV_CACHE_MEMORY")
    ) as engine:
        app.state.engine = engine
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/summary")
async def summary(question: Question) -> dict[str, str]:
    """The whole answer."""
    engine: AsyncEngine = app.state.engine
    try:
        params = SamplingParams(temperature=0, max_tokens=question.max_tokens)
        answers = await engine.chat([{"role": "user", "content": question.text}], params)
    except RequestError as error:
        raise HTTPException(400, str(error)) from None
    return {"answer": answers[0].text}


@app.post("/stream")
async def stream(question: Question) -> StreamingResponse:
    """The answer as it comes, as plain text."""
    engine: AsyncEngine = app.state.engine
    try:  # before the reply begins: what is wrong with the question is a 400
        params = SamplingParams(temperature=0, max_tokens=question.max_tokens)
        prompt = await engine.prepare_chat([{"role": "user", "content": question.text}])
    except RequestError as error:
        raise HTTPException(400, str(error)) from None

    async def pieces() -> AsyncIterator[str]:
        async for delta in engine.stream(prompt, params):
            yield delta.text

    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8")
