"""Around each request to the service: its id, key and size, metrics, and one line of log without what was sent."""

import asyncio
import hmac
import json
import logging
import re
import time
import traceback
import uuid
from base64 import b64decode
from contextlib import suppress
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

from clfa.serving.failures import failure
from clfa.serving.state import BODY, Service

PATIENCE = 10
"""Seconds for which the rest of a body that is refused is taken."""
OPEN = (
    "/",
    "/static/page.css",
    "/static/page.js",
    "/static/element.js",
    "/static/words.js",
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
)
"""Paths that need no key."""
TAKES = {
    "/predict": ["application/json"],
    "/predict/one": ["application/json"],
    "/predict/alignment": ["application/json"],
    "/predict/cues": ["application/json"],
    "/predict/form": ["multipart/form-data"],
    "/setup": ["application/json"],
    "/infer": ["application/json", "application/octet-stream", ""],
}
"""End of a path -> the content types that it takes; clients of the Open Inference Protocol name none."""
REQUEST_ID = re.compile(r"[\w.-]{1,64}")
log = logging.getLogger("clfa.service")


class Guard:
    """Around each request: id, key, size and type of the body, metrics, one line of log."""

    def __init__(self, app: Any, service: Service, keys: list[bytes]):
        self.app, self.service, self.keys = app, service, keys
        registry = service.registry
        self.answered = Counter("clfa_requests", "Requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram("clfa_request_seconds", "Time of an answer.", ["route"], registry=registry)
        Gauge("clfa_waiting_posts", "Posts that wait.", registry=registry).set_function(lambda: service.batcher.waiting)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, seen = time.perf_counter(), 500, 0
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        scope["request_id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY:
                await _discard(receive)
                raise HTTPException(413, f"a request has at most {BODY:,} bytes")
            return message

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(scope["request_id"])]
            await send(message)

        self.service.open += 1
        try:
            refused = self._refusal(scope, headers)
            if refused:
                await _discard(receive)
            await (refused or self.app)(scope, counted, sent)
        except Exception as error:  # a fault of ours: its place is logged, what it says may hold what was sent
            places = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
            log.error(
                "fault",
                extra={"more": {"type": type(error).__name__, "places": places[-8:], "id": scope["request_id"]}},
            )
            with suppress(RuntimeError):  # the answer has begun
                await failure(scope, 500, "a fault of the service")(scope, receive, sent)
        finally:
            self.service.open -= 1
            route = getattr(scope.get("route"), "path", "none")
            took = time.perf_counter() - began
            self.answered.labels(route, status).inc()
            self.seconds.labels(route).observe(took)
            more = {"id": scope["request_id"], "route": route, "status": status, "ms": round(1000 * took, 1)}
            log.info("request", extra={"more": more})

    def _refusal(self, scope: Any, headers: dict[str, str]) -> JSONResponse | None:
        if self.keys and scope["path"] not in OPEN and not self._may(headers):
            return failure(
                scope, 401, "a key is needed: X-API-Key, or Authorization: Bearer", {"WWW-Authenticate": "Bearer"}
            )
        if scope["method"] != "POST":
            return None
        with suppress(ValueError):
            if int(headers.get("content-length", 0)) > BODY:
                return failure(scope, 413, f"a request has at most {BODY:,} bytes")
        sent = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = next((types for end, types in TAKES.items() if scope["path"].endswith(end)), None)
        if wanted and sent not in wanted:
            return failure(scope, 415, f"the content type is {' or '.join(filter(None, wanted))}")
        return None

    def _may(self, headers: dict[str, str]) -> bool:
        said = headers.get("authorization", "")
        given = headers.get("x-api-key") or said.partition("Bearer ")[2] or _password(said.partition("Basic ")[2])
        # all of them, so that the time says nothing
        return sum(hmac.compare_digest(given.encode("latin-1"), key) for key in self.keys) > 0


def _password(coded: str) -> str:
    """Of basic authentication, which is all that some clients have; empty where it is none."""
    with suppress(ValueError):
        return b64decode(coded, validate=True).decode("latin-1").partition(":")[2]
    return ""


async def _discard(receive: Any) -> None:
    """Take the rest of a body, for a while: a client that is still sending would not read the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            size = 0
            while size < 5 * BODY and (message := await receive()).get("more_body"):
                size += len(message["body"])


def _headers(request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-request-id", request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]


class Lines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "more", {}))
