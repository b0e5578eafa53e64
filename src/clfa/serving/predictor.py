"""A trained run, callable on posts of any form: one, a list, a DataFrame, a `datasets.Dataset`, an iterator."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import Precision
from clfa.data.cells import Post
from clfa.errors import UserError
from clfa.model.heatmap import Heatmap, alignment_heatmap, no_heatmap

Posts = Iterable[Any]
"""Of posts; a DataFrame, whose elements are its columns, is one, too."""
CHUNK = 256
"""Posts in memory."""
EXPORTED = "an exported model gives no states of words and patches, which a heatmap is of: serve the run itself"


@dataclass(frozen=True)
class Prediction:
    """The answer for one post."""

    predicted: str | None
    """Name of the most probable class, or of the one that the run decides for (`clfa fit` tunes that); `None` where the post
    cannot be read."""
    probabilities: dict[str, float]
    """Class name -> probability; empty for a post that cannot be read."""
    problem: str = ""
    """Why it cannot be read: the code of docs/errors.md, where there is one, and what is wrong."""


class Predictor:
    """A trained run, callable on posts; several threads may share one.

    A post is a mapping with the keys `text`, `image` (path, bytes, PIL image or None) and any column that the run reads;
    what it lacks is masked, or has the token that training learned for it. Posts are a list of such mappings, an iterator,
    a pandas DataFrame or a `datasets.Dataset`. Those that cannot be read have a `problem` instead of an answer, and the
    others are answered.

    Examples:
        >>> predictor = Predictor("runs/demo/runs/clfa/seed-0")  # doctest: +SKIP
        >>> predictor([{"text": "what a lovely day", "image": "storm.jpg"}])  # doctest: +SKIP
        [Prediction(predicted='sarcastic', probabilities={'not_sarcastic': 0.03, 'sarcastic': 0.97}, problem='')]

    Args:
        run: run directory, or any folder written by `Classifier.save_pretrained`, or by `clfa export`.
        batch_size: posts per forward pass; by default 32, and 8 with ONNX.
        precision: `bf16` changes a logit by a hundredth or so; `fp32_by_bf16` is single precision by other products.
            Both are faster than `fp32` on some hardware, and slower on other (`clfa bench --suite infer`). With ONNX `fp32`
            alone.
        backend: `torch`; or `onnx` for what `clfa export` wrote, there or in the folder `onnx` of a run, without PyTorch
            and transformers. By default `onnx` for the folder of an export, else `torch`.

    Raises:
        UserError: the folder holds no trained model; a precision that this CPU or an export does not have.
    """

    def __init__(
        self,
        run: str | Path,
        batch_size: int | None = None,
        backend: Literal["torch", "onnx"] | None = None,
        precision: Precision = "fp32",
    ):
        self.pipeline: Any = _load(Path(run), batch_size, backend, precision)
        self.precision: Precision = getattr(self.pipeline, "precision", "fp32")
        """In which it computes: fp32 where bf16 was asked for and the hardware has none."""
        self.class_names = self.pipeline.class_names
        self.no_heatmap = no_heatmap(self.pipeline.config) if hasattr(self.pipeline, "states") else EXPORTED
        """Why no post has an alignment heatmap; empty if posts with a text and an image have one."""
        self._lock = Lock()  # tokenizers are not made for several threads

    @property
    def classes_(self) -> NDArray:
        """Class names in the order of `predict_proba`, as scikit-learn calls them."""
        return np.array(self.class_names)

    def __call__(self, posts: Posts) -> list[Prediction]:
        """Predict posts, in their order.

        Raises:
            UserError: a table without any column that the run reads.
        """
        return list(self.stream(posts))

    def one(self, post: Post) -> Prediction:
        """Predict one post.

        Raises:
            UserError: it cannot be read, such as an image that is missing on disk.
        """
        return self.answer([self.pipeline.prepare(post)])[0]

    def stream(self, posts: Posts) -> Iterator[Prediction]:
        """Predict posts as they come, `CHUNK` at a time.

        Raises:
            UserError: see `__call__`.
        """
        for chunk in self._chunks(posts):
            rows, problems = self._prepared(chunk)
            answers = iter(self.answer([row for row in rows if row is not None]))
            for problem in problems:
                yield Prediction(None, {}, problem) if problem else next(answers)

    def predict(self, posts: Posts) -> NDArray[np.object_]:
        """(N,) class names, as scikit-learn's `predict`; `None` for a post that cannot be read."""
        return np.array([answer.predicted for answer in self.stream(posts)], dtype=object)

    def predict_proba(self, posts: Posts) -> Float[NDArray, "posts classes"]:
        """(N, C) probabilities in the order of `classes_`; NaN for a post that cannot be read."""
        blocks = [np.empty((0, len(self.class_names)))]
        for chunk in self._chunks(posts):
            rows, problems = self._prepared(chunk)
            block = np.full((len(chunk), len(self.class_names)), np.nan)
            if good := [row for row in rows if row is not None]:
                block[[not problem for problem in problems]] = _softmax(self._logits(good))
            blocks.append(block)
        return np.concatenate(blocks)

    def embed(self, posts: Posts) -> dict[str, Float[NDArray, "posts dim"]]:
        """Modality -> (N, D), as `Pipeline.embeds`; NaN where a post lacks it or cannot be read."""
        blocks: dict[str, list[NDArray]] = {}
        for chunk in self._chunks(posts):
            rows, problems = self._prepared(chunk)
            with self._lock:
                embeds = self.pipeline.embeds([row if row is not None else self.pipeline.prepare({}) for row in rows])
            bad = np.array([bool(problem) for problem in problems])
            for name, values in embeds.items():
                blocks.setdefault(name, []).append(np.where(bad[:, None], np.nan, values))
        return {name: np.concatenate(own) for name, own in blocks.items()}

    def alignment(self, post: Post) -> Heatmap:
        """How strongly each word of a post aligns with each patch of its image.

        Raises:
            UserError: the run has no heatmap, or the post lacks its text or its image, or cannot be read.
        """
        if self.no_heatmap:
            raise UserError(self.no_heatmap)
        with self._lock:
            return alignment_heatmap(self.pipeline, post)

    def answer(self, rows: Sequence[Post]) -> list[Prediction]:
        """Predict rows that `Pipeline.prepare` made."""
        if not rows:
            return []
        logits = self._logits(rows)
        decided, probabilities = self.pipeline.decide(logits), _softmax(logits)
        return [self._prediction(*each) for each in zip(decided.tolist(), probabilities.tolist())]

    def _logits(self, rows: Sequence[Post]) -> Float[NDArray, "posts classes"]:
        with self._lock:
            return np.asarray(self.pipeline.logits(rows), dtype=np.float64)

    def _prediction(self, decided: int, probabilities: list[float]) -> Prediction:
        named = {name: round(value, 6) for name, value in zip(self.class_names, probabilities)}
        return Prediction(self.class_names[decided], named)

    def _chunks(self, posts: Posts) -> Iterator[list[Any]]:
        """Posts of any form, as mappings."""
        if isinstance(posts, Mapping):
            raise UserError(
                "one post is given to Predictor.one; several are a list, a DataFrame, a Dataset or an iterator"
            )
        columns = getattr(posts, "columns", getattr(posts, "column_names", None))
        if columns is not None and not set(columns) & set(self.pipeline.config.columns()):
            raise UserError(
                f"no column that the run reads: it reads {', '.join(self.pipeline.config.columns())}, the posts have "
                f"{', '.join(map(str, columns))}; rename them",
                "column-missing",
            )
        rows = _records(posts) if hasattr(posts, "iloc") and columns is not None else iter(posts)
        while chunk := list(islice(rows, CHUNK)):
            yield chunk

    def _prepared(self, posts: list[Any]) -> tuple[list[dict[str, Any] | None], list[str]]:
        """Rows for the model, `None` for each that has a problem."""
        rows: list[dict[str, Any] | None] = []
        problems = []
        for post in posts:
            try:
                if not isinstance(post, Mapping):
                    raise UserError(f"a post is a mapping with the keys text and image, found {type(post).__name__}")
                rows.append(self.pipeline.prepare(post))
                problems.append("")
            except UserError as error:
                rows.append(None)
                problems.append(problem_of(error))
            except (OSError, TypeError, ValueError) as error:  # of any object that somebody may give
                rows.append(None)
                problems.append(f"it cannot be read: {type(error).__name__}: {error}")
        return rows, problems


def problem_of(error: UserError) -> str:
    """What a row's `problem` says of an error: the code of docs/errors.md, where it has one, and the message."""
    return f"{error.code}: {error}" if error.code else str(error)


def _load(run: Path, batch_size: int | None, backend: Literal["torch", "onnx"] | None, precision: Precision) -> Any:
    """A `Pipeline` or an `OnnxPipeline`; each is imported only if it is used."""
    if backend == "onnx" or (backend is None and (run / "model.onnx").is_file()):
        from clfa.serving.onnx import OnnxPipeline

        if precision != "fp32":
            raise UserError(
                f"{run} is an exported model, which has no precision {precision}: use the run, or export it with --int8"
            )
        return OnnxPipeline(run, batch_size or 8)
    from clfa.model.pipeline import Pipeline

    return Pipeline.load(run, batch_size or 32, precision)


def _softmax(logits: Float[NDArray, "posts classes"]) -> Float[NDArray, "posts classes"]:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def _records(frame: Any) -> Iterator[dict[str, Any]]:
    """Rows of a pandas DataFrame, `CHUNK` of them at a time; missing values are `None`."""
    for start in range(0, len(frame), CHUNK):
        rows = frame.iloc[start : start + CHUNK].astype(object)
        yield from rows.where(rows.notna(), None).to_dict("records")
