"""FastAPI with a client for the life of each worker: gunicorn -k asgi -w 2 examples.web.fastapi_app:app"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from syncline import AsyncClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(os.environ["SYNCLINE_ENDPOINTS"]) as app.state.kv:
        yield


def client(request: Request) -> AsyncClient:
    kv: AsyncClient = request.app.state.kv
    return kv


app = FastAPI(lifespan=lifespan)


@app.post("/visits")
async def visit(kv: Annotated[AsyncClient, Depends(client)]) -> dict[str, int]:
    return {"visits": await kv.increment("visits"), "worker": os.getpid()}
