"""What a client is told when a request fails: a code, a sentence and the request's id, never what was sent."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from clfa.errors import UserError

CODES = {
    400: "unreadable",
    401: "key",
    404: "unknown-path",
    405: "method",
    409: "not-of-this-run",
    413: "large",
    415: "content-type",
    422: "invalid",
    429: "busy",
    499: "gone",
    500: "internal",
    503: "not-ready",
    504: "timeout",
}


class Failure(BaseModel):
    """What is wrong with a request."""

    code: str
    message: str
    request_id: str
    error: str = ""
    """The message once more, on the paths of the Open Inference Protocol, which calls it so."""


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

OF_SOME_RUNS: dict[int | str, dict[str, Any]] = {
    409: {"model": Failure, "description": "The run has none of this; /info says what it has."}
}


def failure(scope: Any, status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error's response."""
    content = {"code": CODES.get(status, "refused"), "message": message[:500], "request_id": scope["request_id"]}
    if scope["path"].startswith("/v2"):
        content["error"] = content["message"]
    return JSONResponse(content, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Errors as `Failure`, without what was sent."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return failure(request.scope, error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(UserError)
    async def unusable(request: Request, error: UserError) -> JSONResponse:
        return failure(request.scope, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()[:5]]
        broken = any(one["type"] == "json_invalid" for one in error.errors())
        return failure(request.scope, 400 if broken else 422, "; ".join(said))
