"""A trained run over HTTP: `clfa serve`. One process, one model; posts of all clients are predicted in common batches.

Nothing that a user sends is logged or stored, and nothing is fetched: images come as bytes.
"""

import asyncio
import base64
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException as StarletteException

import clfa
from clfa.config import ModelConfig, build_config
from clfa.data.atomic import read_json
from clfa.data.cells import CELLS
from clfa.errors import UserError
from clfa.serving.batching import LARGEST, Batcher, Full
from clfa.serving.guard import BODY, Guard, Lines, State, failure, log
from clfa.serving.open_inference import Inference, answer_of, describe, posts_of
from clfa.serving.predictor import Prediction, Predictor

PARTS, TEXT = 4, 10_000
"""Parts of a form, characters of a text: at most."""
TIMEOUT, DRAIN = 30.0, 1.0
"""Seconds until a request is given up; and that a service which was told to end still says that it is not ready."""
STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing from elsewhere."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_app(run: str | Path, load: Callable[[], Predictor], keys: list[str] | None = None) -> FastAPI:
    """The service of a run directory, or of an export.

    Args:
        run: for its name and the columns that it reads; `model.json` is looked at.
        load: gives the predictor, in a thread, while the service says that it is not ready.
        keys: whoever has one of these may ask; anybody without.
    """
    described = read_json(Path(run) / "model.json")
    if described is None:
        raise UserError(f"{run} holds no trained model (no model.json): train one with `clfa train`")
    path = Path(run).resolve()
    config, name = build_config(ModelConfig, described["model"]), (path.parent if path.name == "onnx" else path).name
    state, allowed = State(), [key.encode() for key in keys or ()]
    sizes = Histogram("clfa_batch_posts", "Posts of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=state.registry)
    batcher = Batcher(lambda posts: list(state.predictor(posts)) if state.predictor else [], sizes.observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def begin() -> None:
            state.predictor = await asyncio.get_running_loop().run_in_executor(batcher.thread, load)
            log.info("ready")

        tasks = [asyncio.create_task(begin()), asyncio.create_task(batcher.run())]
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(
        title=f"clfa: {name}",
        version=clfa.__version__,
        description="Posts that mix text and an image -> classes with probabilities.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service, app.state.batcher = state, batcher
    app.add_middleware(Guard, state=state, keys=allowed, waiting=lambda: batcher.waiting)
    _add_handlers(app)
    Post = _post_model(config)
    Posts = create_model("Posts", __config__=STRICT, posts=(list[Post], Field(min_length=1, max_length=LARGEST)))  # type: ignore[valid-type]
    in_files = {config.column(n) for n, m in config.modalities.items() if CELLS[m.kind].in_files}

    async def predict(posts: list[dict[str, Any]]) -> list[Prediction]:
        if not state.ready:
            raise HTTPException(503, "not ready: loading, or about to end", {"Retry-After": "1"})
        try:
            return await asyncio.wait_for(batcher.ask(posts), TIMEOUT)
        except Full:
            raise HTTPException(429, "too many posts wait: ask again in a second", {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {TIMEOUT:.0f} seconds") from None

    def decoded(post: BaseModel) -> dict[str, Any]:
        given = post.model_dump()
        return given | {name: _bytes(given[name]) for name in in_files if given.get(name) is not None}

    @app.post("/predict", response_model=Answers, responses=ERRORS)
    async def predict_many(posts: Posts) -> Any:  # type: ignore[valid-type]
        """Predict up to 32 posts; one that cannot be read has a `problem`, and the others are answered."""
        answers = await predict([decoded(post) for post in posts.posts])  # type: ignore[attr-defined]
        return {"predictions": answers}

    @app.post("/predict/one", response_model=Answer, responses=ERRORS)
    async def predict_one(post: Post) -> Any:  # type: ignore[valid-type]
        """Predict one post."""
        return _alone((await predict([decoded(post)]))[0])

    @app.post("/predict/form", response_model=Answer, responses=ERRORS, openapi_extra=_form(config))
    async def predict_form(request: Request) -> Any:
        """Predict one post of a form, with the image as a file."""
        async with request.form(max_files=1, max_fields=PARTS - 1, max_part_size=BODY) as form:
            given: dict[str, str | bytes] = {}
            for key, value in form.multi_items():
                if key not in config.columns() or key in given:
                    raise HTTPException(422, f"the fields are {', '.join(config.columns())}, each once")
                given[key] = value if isinstance(value, str) else await value.read()
        for key, cell in given.items():
            if isinstance(cell, bytes) != (key in in_files) or len(cell) > (TEXT, BODY)[key in in_files]:
                raise HTTPException(422, f"{key}: an image is a file, a text has at most {TEXT:,} characters")
        return _alone((await predict([given]))[0])

    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> Any:
        """A page for people, from this service alone."""
        return FileResponse(
            STATIC / "index.html", headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        )

    @app.get("/health/live")
    @app.get("/v2/health/live")
    async def live() -> Any:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/health/ready", responses={503: {"description": "Loading, or about to end."}})
    @app.get("/v2/health/ready", responses={503: {"description": "Loading, or about to end."}})
    @app.get(f"/v2/models/{name}/ready", responses={503: {"description": "Loading, or about to end."}})
    async def ready() -> Any:
        """Whether posts are taken."""
        return JSONResponse({"ready": state.ready}, 200 if state.ready else 503)

    @app.get("/info")
    async def info() -> Any:
        """The model, and the limits of a request."""
        return {
            "name": name,
            "clfa": clfa.__version__,
            "classes": described["labels"],
            "columns": config.columns(),
            "files": sorted(in_files),
            "limits": {"bytes": BODY, "posts": LARGEST, "characters": TEXT, "seconds": TIMEOUT},
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Any:
        """For Prometheus."""
        return PlainTextResponse(generate_latest(state.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v2")
    async def server() -> Any:
        """The Open Inference Protocol: the server."""
        return {"name": "clfa", "version": clfa.__version__, "extensions": ["binary_tensor_data"]}

    @app.get(f"/v2/models/{name}")
    async def model() -> Any:
        """The Open Inference Protocol: inputs and outputs."""
        return describe(name, config.columns(), described["labels"])

    @app.post(f"/v2/models/{name}/infer", responses=ERRORS, openapi_extra=Inference.body())
    async def infer(request: Request) -> Any:
        """The Open Inference Protocol: predict. Images are BYTES, in JSON as base64."""
        asked = Inference.read(await request.body(), request.headers.get("inference-header-content-length"))
        posts = posts_of(asked, config.columns(), in_files, LARGEST, TEXT)
        return answer_of(name, asked, await predict(posts), described["labels"])

    return app


STRICT = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """Of one post."""

    predicted: str | None = Field(description="The class; null where the post cannot be read.")
    probabilities: dict[str, float]
    problem: str = Field("", description="Why it cannot be read.")


class Answers(BaseModel):
    """In the order of the posts."""

    predictions: list[Answer]


class Failure(BaseModel):
    """What is wrong with a request."""

    code: str
    message: str
    request_id: str


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "Not readable as what it says that it is."},
    401: {"model": Failure, "description": "No valid key."},
    413: {"model": Failure, "description": "Too large."},
    415: {"model": Failure, "description": "Another content type is needed."},
    422: {"model": Failure, "description": "A field is missing, unknown or of another kind."},
    429: {"model": Failure, "description": "Too many posts wait."},
    503: {"model": Failure, "description": "Loading, or about to end."},
    504: {"model": Failure, "description": "No answer in time."},
}


def _post_model(config: ModelConfig) -> type[BaseModel]:
    """A post with the columns that the run reads."""
    fields: dict[str, Any] = {}
    for name, modality in config.modalities.items():
        in_files = CELLS[modality.kind].in_files
        limit = 4 * BODY // 3 if in_files else TEXT
        what = "A file's bytes in base64." if in_files else "A text."
        fields[config.column(name)] = (str | None, Field(None, description=what, max_length=limit))
    return create_model("Post", __config__=STRICT, **fields)


def _form(config: ModelConfig) -> dict[str, Any]:
    fields = {
        config.column(n): {
            "type": "string",
            **({"format": "binary"} if CELLS[m.kind].in_files else {"maxLength": TEXT}),
        }
        for n, m in config.modalities.items()
    }
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _bytes(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise HTTPException(422, "an image is not base64 (send the file's bytes, not its path or address)") from None


def _alone(answer: Prediction) -> Prediction:
    """A post that was asked alone and cannot be read is an error of the request."""
    if answer.problem:
        raise HTTPException(422, answer.problem)
    return answer


def _add_handlers(app: FastAPI) -> None:
    """Errors as `Failure`, without what was sent."""

    @app.exception_handler(StarletteException)
    async def refused(request: Request, error: StarletteException) -> JSONResponse:
        return failure(request.scope, error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(UserError)
    async def unusable(request: Request, error: UserError) -> JSONResponse:
        return failure(request.scope, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()[:5]]
        broken = any(one["type"] == "json_invalid" for one in error.errors())
        return failure(request.scope, 400 if broken else 422, "; ".join(said))


class _Server(uvicorn.Server):
    """Told to end, it first says that it is not ready, then answers what it has, and then ends with 0."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        state: State = self.config.app.state.service  # type: ignore[union-attr]
        if state.draining:
            self.force_exit = True
        state.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to end."""
        state: State = self.config.app.state.service  # type: ignore[union-attr]
        if state.draining:
            self.since = getattr(self, "since", time.monotonic())
            self.should_exit |= not state.open and time.monotonic() - self.since > DRAIN
        return await super().on_tick(counter) or self.force_exit


def serve(run: str | Path, host: str, port: int, keys: list[str], load: Callable[[], Predictor]) -> None:
    """Answer until SIGTERM or SIGINT.

    Raises:
        UserError: a host that others can reach, and no key.
    """
    if host not in LOOPBACK and not keys:
        raise UserError(
            f"{host} can be reached from other machines: give --keys FILE (a key a line), or leave --host at 127.0.0.1"
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for logger in (log, logging.getLogger("uvicorn"), logging.getLogger("uvicorn.error")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger is log else logging.WARNING)
    app = build_app(run, load, keys)
    log.info("listening", extra={"more": {"host": host, "port": port}})
    _Server(uvicorn.Config(app, host, port, log_config=None, access_log=False, server_header=False)).run()
