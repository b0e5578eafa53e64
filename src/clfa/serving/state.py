"""What a service has: a run, what it reads, its predictor, and the posts that wait for it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Histogram

from clfa.config import ModelConfig, build_config
from clfa.data.atomic import read_json
from clfa.data.cells import CELLS
from clfa.data.training_cues import TrainingCues, load_cues
from clfa.errors import UserError
from clfa.model.heatmap import Heatmap, no_heatmap
from clfa.serving.batching import Batcher, Full
from clfa.serving.predictor import EXPORTED, Prediction, Predictor

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
        self.text_cleaning: str = described["text"]
        self.cues = _cues(Path(run), self.class_names) if self.in_files.get("text") is False else None
        """Of the training posts; `None` where the run has none."""
        self._no_heatmap = EXPORTED if (path / "model.onnx").is_file() else no_heatmap(config)
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

    @property
    def no_heatmap(self) -> str:
        """Why no post has an alignment heatmap; empty if posts with a text and an image have one."""
        return getattr(self.predictor, "no_heatmap", self._no_heatmap)

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
        return await self._answers(request, posts, None, begun)

    async def align(self, request: Request, post: dict[str, Any]) -> Heatmap:
        """How strongly the words of a post align with the patches of its image; it waits as other posts do.

        Raises:
            HTTPException: see `predict`.
            UserError: the post lacks its text or its image, or cannot be read.
        """

        def work(posts: list) -> list:
            return [self.predictor.alignment(one) for one in posts] if self.predictor else []

        return (await self._answers(request, [post], work))[0]

    async def _answers(
        self,
        request: Request,
        posts: list[dict[str, Any]],
        work: Callable[[list], list] | None,
        begun: bool = False,
    ) -> list[Any]:
        if not (self.ready or begun):
            raise HTTPException(503, "not ready: loading, or about to end", {"Retry-After": "1"})
        tasks = answers, gone = asyncio.create_task(self.batcher.ask(posts, work)), asyncio.create_task(_gone(request))
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


def _cues(run: Path, class_names: list[str]) -> TrainingCues | None:
    """Those of the run; a file that is broken is none, and a line of the log."""
    try:
        return load_cues(run, class_names)
    except (OSError, ValueError) as error:
        more = {"file": "cues.json", "problem": str(error)[:200]}
        logging.getLogger("clfa.service").warning("ignored", extra={"more": more})
        return None


async def _gone(request: Request) -> None:
    """Until the client closes its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
