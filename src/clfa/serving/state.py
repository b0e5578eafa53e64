"""What a service has: a run, what it reads, its predictor, and the posts that wait for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Histogram

from clfa.config import ModelConfig, build_config
from clfa.data.atomic import read_json
from clfa.data.cells import CELLS
from clfa.errors import UserError
from clfa.serving.batching import Batcher, Full
from clfa.serving.predictor import Prediction, Predictor

BODY, TEXT = 10_000_000, 10_000
"""Bytes of a request (they are counted as they come), characters of a text: at most."""
TIMEOUT = 30.0
"""Seconds until a request is given up."""


class Service:
    """Of a run directory, or of an export.

    Args:
        run: for its name and the columns that it reads; `model.json` is looked at.
        load: gives the predictor, in a thread, while the service says that it is not ready.

    Raises:
        UserError: there is no model.
    """

    def __init__(self, run: str | Path, load: Callable[[], Predictor]):
        described = read_json(Path(run) / "model.json")
        if described is None:
            raise UserError(f"{run} holds no trained model (no model.json): train one with `clfa train`")
        path = Path(run).resolve()
        self.name = (path.parent if path.name == "onnx" else path).name
        config = build_config(ModelConfig, described["model"])
        self.class_names: list[str] = described["labels"]
        self.in_files = {config.column(name): CELLS[one.kind].in_files for name, one in config.modalities.items()}
        """Column -> whether its cells are files, which come as bytes; others are texts."""
        self.load = load
        self.predictor: Predictor | None = None
        self.fault: BaseException | None = None
        """Why there is no predictor, and will be none."""
        self.draining = False
        self.open = 0
        """Requests that are being answered."""
        self.registry = CollectorRegistry()
        sizes = Histogram("clfa_batch_posts", "Posts of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry)
        self.batcher = Batcher(lambda posts: list(self.predictor(posts)) if self.predictor else [], sizes.observe)

    @property
    def ready(self) -> bool:
        """Whether posts are taken."""
        return self.predictor is not None and not self.draining

    async def begin(self) -> None:
        """Load the predictor; what fails is kept in `fault`."""
        try:
            self.predictor = await asyncio.get_running_loop().run_in_executor(self.batcher.thread, self.load)
        except Exception as error:
            self.fault = error

    async def predict(self, request: Request, posts: list[dict[str, Any]], begun: bool = False) -> list[Prediction]:
        """Answers of posts, computed with those of other requests; of a client that has gone they are not waited for. A
        request that has `begun` before is answered to its end.

        Raises:
            HTTPException: not ready, too many posts wait, it takes too long, or the client has gone.
        """
        if not (self.ready or begun):
            raise HTTPException(503, "not ready: loading, or about to end", {"Retry-After": "1"})
        tasks = answers, gone = asyncio.create_task(self.batcher.ask(posts)), asyncio.create_task(_gone(request))
        try:
            done, _ = await asyncio.wait(tasks, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if answers in done:
                return answers.result()
        except Full:
            raise HTTPException(429, "too many posts wait: ask again in a second", {"Retry-After": "1"}) from None
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await answers  # it takes its posts out of the queue
        if gone in done:
            raise HTTPException(499, "the client has closed the connection")
        raise HTTPException(504, f"no answer within {TIMEOUT:.0f} seconds")


async def _gone(request: Request) -> None:
    """Until the client closes its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
