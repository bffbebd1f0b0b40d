"""Two replicas under Ray Serve, which spreads requests over them, and over machines when there are more.

    pip install 'ray[serve]'
    ENGINE=model.l4e serve run --app-dir examples ray_serve:app

On a machine that is slow to start processes, RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 keeps Ray from killing its HTTP
proxy before it is up. Each replica holds an engine of its own; on one machine they share the file's pages in memory.
"""

import os

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=32,  # of one replica: what its engine runs and lets wait
    max_queued_requests=64,  # beyond: 503 at once
    ray_actor_options={"num_cpus": float(os.environ.get("REPLICA_CPUS", "1"))},
)
class Llama:
    def __init__(self, path: str) -> None:
        from llama4rt import AsyncEngine

        self.engine = AsyncEngine(path, num_threads=1, kv_cache_memory="64MiB")

    async def __call__(self, request: Request) -> JSONResponse:
        from llama4rt import RequestError, SamplingParams

        body = await request.json()
        try:
            prompt = await self.engine.prepare_chat([{"role": "user", "content": body["text"]}])
            params = SamplingParams(temperature=0, max_tokens=64)
            texts = [delta.text async for delta in self.engine.stream(prompt, params)]
        except (RequestError, KeyError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"answer": "".join(texts), "replica": os.getpid()})

    def check_health(self) -> None:
        self.engine.check_usable()


app = Llama.bind(os.environ["ENGINE"])
