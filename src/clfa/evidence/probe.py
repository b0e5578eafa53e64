"""Does a run use both text and image? EMAP, perceptual score, blanked, missing and corrupted modalities.

Everything is a counterfactual of the trained model on posts with labels; nothing is trained.
"""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.data.rows import Rows
from clfa.data.splits import source_splits
from clfa.errors import UserError
from clfa.evidence.alignment import illustrate
from clfa.evidence.judge import Judge, corrupted_scores
from clfa.evidence.results import Change, Emap, Probe, Side, write_result
from clfa.evidence.significance import mcnemar
from clfa.model.modalities import kind_of
from clfa.model.pipeline import ABSENT, Pipeline
from clfa.runs import Run

PERMUTATIONS = 10
MISSING = (0.0, 0.1, 0.3, 0.5, 1.0)
SIDES = ("text", "image")

log = logging.getLogger(__name__)


def probe(run: str | Path, split: str = "test", posts: int = 500, corrupted: int = 100, seed: int = 0) -> Probe:
    """Probe a trained run on one split; write `RUN/probe.json`.

    `emap`: the model against its best additive projection (Hessel and Lee 2020), f_text(t_i) + f_image(v_i), which can use
    both modalities but not their interplay; the difference is the multimodal gain. `modalities`: for each side what
    accuracy is lost when its contents are shuffled between posts (10 permutations; divided by the accuracy: perceptual
    score, Gat et al. 2021), blanked (an empty text, a grey image) or masked, for all posts or a share of them (`missing`).
    `corruptions`: 12 for images and 8 for texts in 5 severities, accuracy and relative drop. Intervals are paired 95 % BCa
    bootstraps over posts.

    Args:
        run: run directory with a modality about the text and one about the image (`ModelConfig.side`).
        split: split to probe on.
        posts: posts for EMAP, which costs posts x posts forward passes of the fusion: exact for these posts, drawn with
            `seed` where the split has more.
        corrupted: posts for the corruptions; 0 leaves them out.
        seed: of all that is drawn.

    Raises:
        UserError: not a finished run, or one with modalities about one side alone.
    """
    if posts < 2 or corrupted < 0:
        raise UserError(f"posts = {posts}, corrupted = {corrupted}: at least 2 posts for EMAP, and no negative number")
    opened = Run(run).require_finished()
    config = opened.config()
    if {config.model.side(name) for name in config.model.modalities} != set(SIDES):
        raise UserError(f"{run} reads {', '.join(config.model.modalities)} only: there is nothing to probe")
    rows = opened.open_split(config.data, split, "probe")
    pipeline = Pipeline.load(opened.path)
    pipeline.cache(Path(config.data.path), source_splits(config.data, [split]))
    log.info("%s: reading %s posts", run, f"{len(rows):,}")
    recombined = _Recombined(pipeline, rows)
    everyone = recombined.everyone
    judge = Judge(rows.labels, recombined.predict(everyone, everyone), len(pipeline.class_names))

    generator = np.random.default_rng(seed)
    chosen = _draw(generator, everyone, posts)
    log.info("%s: EMAP, %s x %s pairs", run, f"{len(chosen):,}", f"{len(chosen):,}")
    gain = _emap(recombined, chosen, judge)
    log.info("%s: shuffled, blanked and missing modalities", run)
    sides = {side: _side(recombined, side, judge, generator) for side in SIDES}
    some = _draw(generator, everyone, corrupted)
    result = Probe(
        run=opened.path.name,
        split=split,
        posts=len(rows),
        metrics=judge.scores(judge.predicted),
        verdict=verdict(gain, sides),
        emap=gain,
        modalities=sides,
        corruptions=corrupted_scores(pipeline, rows.select(some), seed) if corrupted else None,
        # for the report of the run, where this split was evaluated
        illustrations=illustrate(pipeline, rows, opened.predictions(split)) if split in opened.metrics() else None,
    )
    write_result(opened.probe_file, result)
    return result


def emap(logits: Float[NDArray, "posts posts classes"]) -> Float[NDArray, "posts classes"]:
    """Empirical multimodally-additive projection (Hessel and Lee 2020, equation 3).

    EMAP_i = mean_j f(t_i, v_j) + mean_j f(t_j, v_i) - mean_jk f(t_j, v_k); of an additive model, the model itself.

    Args:
        logits: f(t_i, v_j) for each text i with each image j.
    """
    return logits.mean(axis=1) + logits.mean(axis=0) - logits.mean(axis=(0, 1))


def verdict(emap: Emap, sides: dict[str, Side]) -> str:
    """One line; a gain or a use is claimed only where its interval excludes 0."""
    gain, size = emap.gain["accuracy"], _points(emap.gain["accuracy"].text())
    losses = {name: side.shuffled.loss["accuracy"] for name, side in sides.items()}
    unused = [side for side, loss in losses.items() if (loss.low or 0.0) <= 0]
    costs = ", ".join(f"shuffling the {side}s costs {_points(loss.text())}" for side, loss in losses.items())
    if unused:
        return f"no evidence that the {' or the '.join(unused)} is used ({costs})"
    # with few posts that only one of both has right, a bootstrap is too sure: the exact test must agree
    if (gain.low or 0.0) > 0 and emap.mcnemar_p <= 0.05:
        return f"multimodal gain {size} ({costs})"
    return f"both are used ({costs}), but no evidence of a multimodal gain: {size} over the best additive model"


class _Recombined:
    """Posts of a split whose texts and images can be put together anew; behind them one post that says nothing."""

    def __init__(self, pipeline: Pipeline, rows: Rows):
        silent = {pipeline.config.column(name): kind_of(m).silent for name, m in pipeline.config.modalities.items()}
        nothing = pipeline.states([rows[0].replace(**silent, dependencies=None)])
        self.pipeline, self.states = pipeline, pipeline.states(rows).joined(nothing)
        self.everyone, self.silent = np.arange(len(rows)), len(rows)

    def logits(self, texts: NDArray, images: NDArray) -> Float[NDArray, "pairs classes"]:
        """Of posts made of the texts of some and the images of others."""
        return self.pipeline.recombine(self.states, texts, images)

    def predict(self, texts: NDArray, images: NDArray) -> NDArray[np.int64]:
        """(M,) class numbers."""
        return self.pipeline.decide(self.logits(texts, images))

    def without(self, side: str, places: NDArray) -> NDArray[np.int64]:
        """(N,) class numbers when one side of each post is that of another."""
        return self.predict(places, self.everyone) if side == "text" else self.predict(self.everyone, places)


def _draw(generator: np.random.Generator, everyone: NDArray, count: int) -> NDArray:
    """Some of the posts in their order, all of them where there are no more; nothing is drawn for none."""
    if not count or len(everyone) <= count:
        return everyone
    return np.sort(generator.choice(everyone, count, replace=False))


def _emap(recombined: _Recombined, chosen: NDArray, judge: Judge) -> Emap:
    count = len(chosen)
    pairs = recombined.logits(np.repeat(chosen, count), np.tile(chosen, count)).reshape(count, count, -1)
    additive = recombined.pipeline.decide(emap(pairs))
    exact, judge = count == len(judge.labels), judge.of(chosen)
    _, _, p = mcnemar(judge.labels, judge.predicted, additive)
    return Emap(count, exact, judge.scores(judge.predicted), judge.scores(additive), judge.loss(additive), p)


def _side(recombined: _Recombined, side: str, judge: Judge, generator: np.random.Generator) -> Side:
    count = len(judge.labels)
    shuffled = np.stack([recombined.without(side, generator.permutation(count)) for _ in range(PERMUTATIONS)])
    blanked, masked = (recombined.without(side, np.full(count, place)) for place in (recombined.silent, ABSENT))
    change = judge.change(shuffled)
    accuracy = judge.scores(judge.predicted)["accuracy"].value
    score = change.loss["accuracy"].value / accuracy if accuracy else 0.0
    return Side(change, judge.change(blanked), judge.change(masked), score, _missing(masked, judge, generator))


def _missing(without: NDArray, judge: Judge, generator: np.random.Generator) -> list[Change]:
    """By share of posts without the modality; a post's answer does not depend on the others, so two passes do."""
    changes, count = [], len(judge.labels)
    for share in MISSING:
        gone = np.argsort(generator.random((PERMUTATIONS, count)), axis=1) < round(share * count)
        changes.append(judge.change(np.where(gone, without, judge.predicted), share))
    return changes


def _points(text: str) -> str:
    """A score in points: `3.1 points [1.2, 4.9]`."""
    return text.replace(" [", " points [")
