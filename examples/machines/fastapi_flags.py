"""Feature flags on three nodes, with FastAPI: SYNCLINE_NAME=a uvicorn examples.machines.fastapi_flags:app"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from syncline import Machine, command, query
from syncline.errors import OperationError


class Flags(Machine):
    on: dict[str, bool]

    @command
    def switch(self, flag: str, on: bool) -> bool | None:
        """Set a flag, and return what it was."""
        before = self.on.get(flag)
        self.on[flag] = on
        return before

    @query
    def all(self) -> dict[str, bool]:
        return self.on


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Flags.open("cluster.toml") as app.state.flags:
        yield


def opened(request: Request) -> Flags:
    flags: Flags = request.app.state.flags
    return flags


app = FastAPI(lifespan=lifespan)


@app.put("/flags/{flag}")
async def switch(flag: str, on: bool, flags: Annotated[Flags, Depends(opened)]) -> dict[str, bool | None]:
    return {"before": await flags.switch(flag, on)}


@app.get("/flags")
async def show(flags: Annotated[Flags, Depends(opened)]) -> dict[str, bool]:
    return await flags.using(consistency="stale").all()  # this node's own state: needs no other node


@app.exception_handler(OperationError)
async def unavailable(_: Request, error: OperationError) -> JSONResponse:
    return JSONResponse({"error": str(error), "outcome": error.outcome}, 503)
