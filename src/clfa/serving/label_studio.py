"""A machine-learning backend of Label Studio: tasks in, the classes that a run would choose out, for annotators to correct.

Its address in Label Studio is that of the service with `/label-studio` behind it. Images come in the task, as data URIs
(`clfa select` writes such tasks); of one with an address instead nothing is fetched and nothing said.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from clfa.errors import UserError
from clfa.serving.batching import LARGEST
from clfa.serving.failures import ERRORS
from clfa.serving.predictions import decode
from clfa.serving.predictor import Prediction
from clfa.serving.state import TEXT, Service

MOST, LONGEST = 1_000, 120
"""Tasks in a request; seconds until it is given up."""


class Task(BaseModel):
    """What is labelled, by the names of its parts."""

    model_config = ConfigDict(extra="ignore")
    data: dict[str, Any]


class Asked(BaseModel):
    """What Label Studio sends."""

    model_config = ConfigDict(extra="ignore")
    tasks: list[Task] = Field(min_length=1, max_length=MOST)
    label_config: str | None = None


def label_studio(service: Service) -> APIRouter:
    """`/label-studio`: health, setup, predict."""
    router = APIRouter(prefix="/label-studio", responses=ERRORS)

    @router.get("/health")
    async def health() -> Any:
        """Whether the backend is there."""
        return {"status": "UP" if service.ready else "LOADING", "model_class": "clfa"}

    @router.post("/setup")
    async def setup(request: Request) -> Any:
        """A project is set up: the name of the model."""
        return {"model_version": service.name}

    @router.post("/predict")
    async def predict(request: Request, asked: Asked) -> Any:
        """The class of each task, in the terms of its project; an empty result for one that cannot be read."""
        names = control_of(asked.label_config) if asked.label_config else ("label", "text")
        posts = [post_of(task.data, service.in_files) for task in asked.tasks]
        readable = [post for post in posts if post is not None]
        answers: list[Prediction] = []
        try:
            async with asyncio.timeout(LONGEST):
                for start in range(0, len(readable), LARGEST):  # what has begun is answered to its end
                    answers += await service.predict(request, readable[start : start + LARGEST], begun=start > 0)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {LONGEST} seconds: ask for fewer tasks") from None
        given = iter(answers)
        results = [result_of(None if post is None else next(given), names, service.name) for post in posts]
        return {"results": results, "model_version": service.name}

    return router


def post_of(data: Mapping[str, Any], in_files: Mapping[str, bool]) -> dict[str, Any] | None:
    """A task's data as a post: its columns of the same names; `None` where an image is an address or no base64, or a text is
    too long."""
    post: dict[str, Any] = {}
    for column, in_file in in_files.items():
        value = data.get(column)
        if value in (None, ""):
            continue
        if not isinstance(value, str) or (len(value) > TEXT and not in_file):
            return None
        if in_file:
            kind, _, coded = value.partition(",")
            if not (kind.startswith("data:image/") and kind.endswith(";base64")):
                return None
            try:
                post[column] = decode(coded)
            except HTTPException:
                return None
        else:
            post[column] = value
    return post


def control_of(label_config: str) -> tuple[str, str]:
    """Names of the choices, and of what they are of, in the set-up of a project.

    Raises:
        UserError: it is no XML, or has no choices.
    """
    try:
        choices = next(iter(fromstring(label_config).iter("Choices")), None)
    except (ParseError, DefusedXmlException, ValueError):
        choices = None
    if choices is None or not choices.get("name") or not choices.get("toName"):
        raise UserError("the project's label_config has no <Choices name=… toName=…>")
    return choices.get("name"), choices.get("toName").partition(",")[0]


def result_of(answer: Prediction | None, names: tuple[str, str], version: str) -> dict[str, Any]:
    """A prediction as Label Studio has it."""
    if answer is None or answer.predicted is None:
        return {"result": [], "score": 0.0, "model_version": version}
    choice = {"choices": [answer.predicted]}
    result = {"from_name": names[0], "to_name": names[1], "type": "choices", "value": choice}
    return {"result": [result], "score": answer.probabilities[answer.predicted], "model_version": version}
