"""The service's own way to ask: posts in JSON, one or many, or as a form with the image as a file."""

import base64
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, create_model

from clfa.serving.batching import LARGEST
from clfa.serving.failures import ERRORS
from clfa.serving.predictor import Prediction
from clfa.serving.state import BODY, TEXT, Service

BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
STRICT = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """Of one post."""

    predicted: str | None = Field(description="The class; null where the post cannot be read.")
    probabilities: dict[str, float]
    problem: str = Field("", description="Why it cannot be read.")


class Answers(BaseModel):
    """In the order of the posts."""

    predictions: list[Answer]


def predictions(service: Service) -> APIRouter:
    """`/predict`, `/predict/one`, `/predict/form`."""
    router = APIRouter(responses=ERRORS)
    Post = post_model(service)
    Posts = create_model("Posts", __config__=STRICT, posts=(list[Post], Field(min_length=1, max_length=LARGEST)))  # type: ignore[valid-type]

    @router.post("/predict", response_model=Answers)
    async def many(request: Request, posts: Posts) -> Any:  # type: ignore[valid-type]
        """Predict up to 32 posts; one that cannot be read has a `problem`, and the others are answered."""
        return {"predictions": await service.predict(request, [decoded(post, service) for post in posts.posts])}  # type: ignore[attr-defined]

    @router.post("/predict/one", response_model=Answer)
    async def one(request: Request, post: Post) -> Any:  # type: ignore[valid-type]
        """Predict one post."""
        return _alone((await service.predict(request, [decoded(post, service)]))[0])

    @router.post("/predict/form", response_model=Answer, openapi_extra=_form_schema(service))
    async def form(request: Request) -> Any:
        """Predict one post of a form, with the image as a file."""
        return _alone((await service.predict(request, [await _post_of_form(request, service)]))[0])

    return router


def decode(value: str) -> bytes:
    """The bytes of a file that came as base64.

    Raises:
        HTTPException: it is none.
    """
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise HTTPException(422, "an image is not base64 (send the file's bytes, not its path or address)") from None


def decoded(post: BaseModel, service: Service) -> dict[str, Any]:
    """What a post gives, its files as bytes.

    Raises:
        HTTPException: they are no base64.
    """
    given = {name: value for name, value in post.model_dump().items() if value is not None}
    return {name: decode(value) if service.in_files[name] else value for name, value in given.items()}


def post_model(service: Service) -> type[BaseModel]:
    """A post with the columns that the run reads."""
    fields: dict[str, Any] = {}
    for column, in_files in service.in_files.items():
        if in_files:
            coded: dict[str, Any] = {
                "anyOf": [{"type": "string", "maxLength": 4 * BODY // 3, "pattern": BASE64}, {"type": "null"}]
            }
            field = Field(None, description="A file's bytes in base64.", json_schema_extra=coded)  # read by `decode`
        else:
            field = Field(None, description="A text.", max_length=TEXT)
        fields[column] = (str | None, field)
    return create_model("Post", __config__=STRICT, **fields)


async def _post_of_form(request: Request, service: Service) -> dict[str, str | bytes]:
    columns = len(service.in_files)
    post: dict[str, str | bytes] = {}
    async with request.form(max_files=columns, max_fields=columns, max_part_size=BODY) as form:
        for key, value in form.multi_items():
            if key not in service.in_files or key in post:
                raise HTTPException(422, f"the fields are {', '.join(service.in_files)}, each once")
            post[key] = value if isinstance(value, str) else await value.read()
    for key, cell in post.items():
        in_files = service.in_files[key]
        if isinstance(cell, bytes) != in_files or len(cell) > (BODY if in_files else TEXT):
            raise HTTPException(422, f"{key}: an image is a file, a text has at most {TEXT:,} characters")
    return post


def _form_schema(service: Service) -> dict[str, Any]:
    fields = {
        column: {"type": "string", **({"format": "binary"} if in_files else {"maxLength": TEXT})}
        for column, in_files in service.in_files.items()
    }
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _alone(answer: Prediction) -> Prediction:
    """A post that was asked alone and cannot be read is an error of the request."""
    if answer.problem:
        raise HTTPException(422, answer.problem)
    return answer
