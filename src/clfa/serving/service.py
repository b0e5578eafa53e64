"""A trained run over HTTP: `clfa serve`. One process, one model; posts of all clients are predicted in common batches.

Nothing that a user sends is logged or stored, and nothing is fetched: images come as bytes.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Security
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import generate_latest

import clfa
from clfa.errors import UserError
from clfa.serving.batching import LARGEST
from clfa.serving.failures import add_handlers
from clfa.serving.guard import Guard, Lines, log
from clfa.serving.label_studio import label_studio
from clfa.serving.open_inference import inference
from clfa.serving.predictions import predictions
from clfa.serving.predictor import Predictor
from clfa.serving.state import BODY, TEXT, TIMEOUT, Service
from clfa.serving.words import words

DRAIN = 1.0
"""Seconds for which a service that was asked to end still says that it is not ready."""
STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing from elsewhere."""
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Loading, or about to end."}}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_app(service: Service, keys: list[str] | None = None, for_label_studio: bool = False) -> FastAPI:
    """The application of a service; whoever has one of the keys may ask, anybody where there are none."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.begin()), asyncio.create_task(service.batcher.run())]
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(
        title=f"clfa: {service.name}",
        version=clfa.__version__,
        description="Posts that mix text and an image -> classes with probabilities.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, service=service, keys=[key.encode() for key in keys or ()])
    add_handlers(app)
    # these tell the schema of the keys; the guard asks for them
    ways = [Security(APIKeyHeader(name="X-API-Key", auto_error=False)), Security(HTTPBearer(auto_error=False))]
    for router in (predictions, words, inference, _operations, *([label_studio] if for_label_studio else [])):
        app.include_router(router(service), dependencies=ways if keys else [])
    app.include_router(_health(service))
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> Any:
        """A page for people, from this service alone."""
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        return FileResponse(STATIC / "index.html", headers=headers)

    return app


def _health(service: Service) -> APIRouter:
    """For whatever starts and watches it, without a key."""
    router = APIRouter()

    @router.get("/health/live")
    @router.get("/v2/health/live")
    async def live() -> Any:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready", responses=NOT_READY)
    @router.get("/v2/health/ready", responses=NOT_READY)
    async def ready() -> Any:
        """Whether posts are taken."""
        return _readiness(service)

    return router


def _readiness(service: Service) -> JSONResponse:
    return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


def _operations(service: Service) -> APIRouter:
    """For whoever runs it: metrics, what the model reads."""
    router = APIRouter()

    @router.get(f"/v2/models/{service.name}/ready", responses=NOT_READY)
    async def model_ready() -> Any:
        """Whether posts are taken."""
        return _readiness(service)

    @router.get("/info")
    async def info() -> Any:
        """The model, what it can say beside a class, and the limits of a request."""
        return {
            "name": service.name,
            "clfa": clfa.__version__,
            "classes": service.class_names,
            "columns": list(service.in_files),
            "files": sorted(column for column, in_files in service.in_files.items() if in_files),
            "alignment": not service.no_heatmap,
            "cues": service.cues is not None,
            "limits": {"bytes": BODY, "posts": LARGEST, "characters": TEXT, "seconds": TIMEOUT},
        }

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Any:
        """For Prometheus."""
        return PlainTextResponse(generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    return router


class _Server(uvicorn.Server):
    """Asked to end, it first says that it is not ready, then answers what it has, and then ends with 0."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service
        self.since: float | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.service.draining:
            self.force_exit = True
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to end."""
        if self.service.draining:
            self.since = self.since or time.monotonic()
            self.should_exit |= not self.service.open and time.monotonic() - self.since > DRAIN
        self.should_exit |= self.service.fault is not None
        return await super().on_tick(counter) or self.force_exit


def serve(
    run: str | Path,
    host: str,
    port: int,
    keys: list[str],
    load: Callable[[], Predictor],
    for_label_studio: bool = False,
) -> None:
    """Answer until SIGTERM or SIGINT.

    Raises:
        UserError: a host that others can reach, and no key; a model that cannot be loaded.
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
    service = Service(run, load)
    app = build_app(service, keys, for_label_studio)
    log.info("listening", extra={"more": {"host": host, "port": port}})
    _Server(uvicorn.Config(app, host, port, log_config=None, access_log=False, server_header=False), service).run()
    if service.fault:
        raise service.fault
