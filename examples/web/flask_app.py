"""Flask in a pre-fork server: gunicorn --preload --workers 4 examples.web.flask_app:app"""

import os

from flask import Flask

from syncline import Client
from syncline.errors import OperationError

app = Flask(__name__)
kv = Client(os.environ["SYNCLINE_ENDPOINTS"])  # before the fork: each worker gets connections of its own
starts = kv.increment("starts")


@app.post("/visits")
def visit() -> dict[str, int]:
    return {"visits": kv.increment("visits"), "starts": starts, "worker": os.getpid()}


@app.get("/settings/<name>")
def setting(name: str) -> tuple[bytes, int]:
    found = kv.get(f"settings/{name}")
    return (b"", 404) if found is None else (found.value, 200)


@app.errorhandler(OperationError)
def unavailable(error: OperationError) -> tuple[dict[str, str], int]:
    return {"error": str(error), "outcome": error.outcome}, 503
