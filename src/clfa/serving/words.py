"""What can be said of the words of a post: where they align with its image, and which of them hint at a class."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from clfa.data.cells import CELLS
from clfa.errors import UserError
from clfa.serving.failures import ERRORS, OF_SOME_RUNS
from clfa.serving.predictions import decoded, post_model
from clfa.serving.predictor import problem_of
from clfa.serving.state import Service

SHOWN = 10
"""Cues of a post, at most."""
DIGITS = 4
"""Of a cosine."""


class Alignment(BaseModel):
    """Of the words of a post and the patches of its image."""

    words: list[str] = Field(description="As the tokenizer cuts the text; at most as many as the model reads.")
    similarity: list[list[list[float]]] = Field(
        description="Word, row, column: cosine of the projected states of the word and of the patch, from -1 to 1."
    )


class Cue(BaseModel):
    """A word, or two that stand beside each other."""

    cue: str
    hints_at: str = Field(description="The class that training posts with it have more often than others.")
    posts: dict[str, int] = Field(description="Class -> number of the training posts with it.")


class Cues(BaseModel):
    """Facts about the training posts, not about how the model decides."""

    posts: dict[str, int] = Field(description="Class -> number of training posts.")
    cues: list[Cue] = Field(
        description="Those in the text of the post, the furthest above its class's share first.", max_length=SHOWN
    )


def words(service: Service) -> APIRouter:
    """`/predict/alignment`, `/predict/cues`."""
    router = APIRouter(responses=ERRORS | OF_SOME_RUNS)
    Post = post_model(service)

    @router.post("/predict/alignment", response_model=Alignment)
    async def alignment(request: Request, post: Post) -> Any:  # type: ignore[valid-type]
        """How strongly each word of a post aligns with each patch of its image (the paper's Figure 4)."""
        if service.no_heatmap:
            raise HTTPException(409, service.no_heatmap)
        try:
            heatmap = await service.align(request, decoded(post, service))
        except UserError as error:
            raise HTTPException(422, problem_of(error)) from None
        return Alignment(words=heatmap.words, similarity=heatmap.similarity.round(DIGITS).tolist())

    @router.post("/predict/cues", response_model=Cues)
    async def cues(post: Post) -> Any:  # type: ignore[valid-type]
        """Words of a post that hint at a class in the training posts, whatever the model makes of them."""
        if service.cues is None:
            raise HTTPException(409, "the run has no cues.json, which `clfa evaluate` makes of its training posts")
        text = CELLS["text"].clean(decoded(post, service).get("text"), service.text_cleaning) or ""

        def named(counts: list[int]) -> dict[str, int]:
            return dict(zip(service.class_names, counts))

        shown = [
            Cue(cue=one.cue, hints_at=service.class_names[one.label], posts=named(one.posts))
            for one in service.cues.of_text(text)[:SHOWN]
        ]
        return Cues(posts=named(service.cues.posts), cues=shown)

    return router
