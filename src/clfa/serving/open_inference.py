"""The Open Inference Protocol, version 2 (KServe, Triton): requests and answers as tensors, in JSON or bytes behind it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

import clfa
from clfa.errors import UserError
from clfa.serving.batching import LARGEST
from clfa.serving.failures import ERRORS
from clfa.serving.predictions import decode
from clfa.serving.predictor import Prediction
from clfa.serving.state import TEXT, Service


def inference(service: Service) -> APIRouter:
    """`/v2`: the server, the model, its answers."""
    router = APIRouter(prefix="/v2")
    path = f"/models/{service.name}"

    @router.get("")
    async def server() -> Any:
        """The Open Inference Protocol: the server."""
        return {"name": "clfa", "version": clfa.__version__, "extensions": ["binary_tensor_data"]}

    @router.get(path)
    async def model() -> Any:
        """The Open Inference Protocol: inputs and outputs."""
        return describe(service.name, list(service.in_files), service.class_names)

    @router.post(f"{path}/infer", responses=ERRORS, openapi_extra=Inference.body(list(service.in_files)))
    async def infer(request: Request) -> Any:
        """The Open Inference Protocol: predict. Images are BYTES, in JSON as base64."""
        asked = Inference.read(await request.body(), request.headers.get("inference-header-content-length"))
        answers = await service.predict(request, posts_of(asked, service.in_files))
        return answer_of(service.name, asked, answers, service.class_names)

    return router


@dataclass(frozen=True)
class Inference:
    """A request."""

    id: str | None
    inputs: dict[str, list[str | bytes | None]]
    """Name -> its values, behind each other."""
    outputs: list[str]
    """What is asked for; everything where it is empty."""

    @classmethod
    def read(cls, body: bytes, header_length: str | None) -> "Inference":
        """Of a request's body, of which so many bytes are JSON and the rest tensors.

        Raises:
            UserError: it is none.
        """
        try:
            length = len(body) if header_length is None else int(header_length)
            request, rest = json.loads(body[:length]), memoryview(body)[length:]
            inputs = {}
            for one in request["inputs"]:
                size = (one.get("parameters") or {}).get("binary_data_size")
                if one["datatype"] != "BYTES":
                    raise UserError(f"the datatype of {one['name']!r} is BYTES")
                values = _flat(one["data"]) if size is None else _unpacked(rest[:size])
                rest = rest[size or 0 :]
                if len(values) != math.prod(one["shape"]):
                    raise UserError(f"{one['name']!r}: {len(values)} values do not make the shape {one['shape']}")
                inputs[str(one["name"])] = values
            outputs = [str(one["name"]) for one in request.get("outputs") or ()]
            return cls(str(request["id"]) if request.get("id") else None, inputs, outputs)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"no request of the Open Inference Protocol: {type(error).__name__}") from None

    @staticmethod
    def body(columns: Sequence[str]) -> dict[str, Any]:
        """Its schema."""
        tensor = {
            "type": "object",
            "required": ["name", "shape", "datatype", "data"],
            "properties": {
                "name": {"enum": list(columns)},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "datatype": {"const": "BYTES"},
                "data": {"type": "array", "items": {"type": ["string", "null"]}},
            },
        }
        inputs = {"inputs": {"type": "array", "minItems": 1, "items": tensor}, "id": {"type": "string"}}
        schema = {"type": "object", "required": ["inputs"], "properties": inputs}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(name: str, columns: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    outputs = [
        ("predicted", "BYTES", [-1]),
        ("probabilities", "FP64", [-1, len(class_names)]),
        ("problem", "BYTES", [-1]),
    ]
    return {
        "name": name,
        "versions": ["1"],
        "platform": "clfa",
        "inputs": [{"name": column, "datatype": "BYTES", "shape": [-1]} for column in columns],
        "outputs": [{"name": output, "datatype": kind, "shape": shape} for output, kind, shape in outputs],
    }


def posts_of(asked: Inference, in_files: Mapping[str, bool]) -> list[dict[str, Any]]:
    """The posts of a request, whose inputs are columns; an empty value is one that the post lacks.

    Args:
        asked: the request.
        in_files: column -> whether its cells are files.

    Raises:
        UserError: unknown inputs, of different lengths, too many posts, too long texts.
        HTTPException: images that are no base64.
    """
    counts = {len(values) for values in asked.inputs.values()}
    if asked.inputs.keys() - in_files.keys() or len(counts) != 1 or not 1 <= max(counts) <= LARGEST:
        inputs = ", ".join(in_files)
        raise UserError(f"the inputs are {inputs}, each with the same number of values, from 1 to {LARGEST}")
    posts: list[dict[str, Any]] = [{} for _ in range(counts.pop())]
    for name, values in asked.inputs.items():
        for post, value in zip(posts, values):
            if not value:
                continue
            if in_files[name]:
                post[name] = value if isinstance(value, bytes) else decode(value)
            else:
                post[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                if len(post[name]) > TEXT:
                    raise UserError(f"{name}: at most {TEXT:,} characters")
    return posts


def answer_of(name: str, asked: Inference, answers: Sequence[Prediction], class_names: Sequence[str]) -> dict[str, Any]:
    """The answer, in JSON. A post that cannot be read has an empty class, and a problem; its probabilities are 0.

    Raises:
        UserError: an output is asked for that there is not.
    """
    rows = [[answer.probabilities.get(each, 0.0) for each in class_names] for answer in answers]
    found = {
        "predicted": ("BYTES", [len(answers)], [answer.predicted or "" for answer in answers]),
        "probabilities": ("FP64", [len(answers), len(class_names)], [value for row in rows for value in row]),
        "problem": ("BYTES", [len(answers)], [answer.problem for answer in answers]),
    }
    if unknown := set(asked.outputs) - found.keys():
        raise UserError(f"there is no output {sorted(unknown)[0]!r}; there are {', '.join(found)}")
    outputs = [
        {"name": key, "datatype": kind, "shape": shape, "data": data}
        for key, (kind, shape, data) in found.items()
        if key in (asked.outputs or found)
    ]
    return {"model_name": name, "model_version": "1", "outputs": outputs} | ({"id": asked.id} if asked.id else {})


def _flat(data: Any) -> list[str | bytes | None]:
    if isinstance(data, list):
        return [value for each in data for value in (_flat(each) if isinstance(each, list) else [_checked(each)])]
    raise TypeError


def _checked(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError


def _unpacked(data: memoryview) -> list[str | bytes | None]:
    """Values of which each has its length before it, in four bytes."""
    values: list[str | bytes | None] = []
    while data:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 + size:
            raise ValueError
        values.append(bytes(data[4 : 4 + size]))
        data = data[4 + size :]
    return values
