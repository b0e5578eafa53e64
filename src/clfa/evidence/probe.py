"""Does a run use both text and image? EMAP, perceptual score, blanked, missing and corrupted modalities.

Everything is a counterfactual of the trained model on posts with labels; nothing is trained.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from clfa.config import ModalityConfig, RunConfig, load_config
from clfa.data.cache import Cache
from clfa.data.images import open_image
from clfa.data.splits import dataset_path, source_splits
from clfa.errors import UserError
from clfa.evidence.corruptions import IMAGE_CORRUPTIONS, SEVERITIES, TEXT_CORRUPTIONS, corrupt_image, corrupt_text
from clfa.evidence.evaluate import open_split
from clfa.evidence.significance import Difference, paired_bootstrap
from clfa.metrics import confusion, mcnemar, scores
from clfa.model.batch import Collator
from clfa.model.classifier import Classifier
from clfa.model.frozen import cache_states
from clfa.model.parts import ABSENT, Parts, read_parts
from clfa.report.card import write_card
from clfa.serving.predictor import compute_logits

PERMUTATIONS = 10
MISSING = (0.0, 0.1, 0.3, 0.5, 1.0)
LONGEST_SIDE = 512
SHOWN = ("accuracy", "macro_f1")
Say = Callable[[str], None]


def probe_run(
    run: str | Path, split: str, posts: int, corrupted: int, seed: int = 0, say: Say = print
) -> dict[str, Any]:
    """Probe a trained run on one split; write `RUN/probe.json`, and the report and the card anew.

    `emap`: the model against its best additive projection (Hessel and Lee 2020), f_text(t_i) + f_image(v_i), which can use
    both modalities but not their interplay; the difference is the multimodal gain. `modalities`: for each side what
    accuracy is lost when its contents are shuffled between posts (10 permutations; divided by the accuracy: perceptual
    score, Gat et al. 2021), blanked (an empty text, a grey picture) or masked. `missing`: accuracy when a share of posts
    lacks the modality, masked. `corruptions`: 12 for pictures and 8 for texts in 5 severities, accuracy and relative drop.
    Intervals are paired 95 % BCa bootstraps over posts.

    Args:
        run: run directory with a text and an image modality; further texts go with the text.
        split: split to probe on.
        posts: posts for EMAP, which costs posts x posts forward passes of the fusion: exact for these posts, drawn with
            `seed` where the split has more.
        corrupted: posts for the corruptions; 0 leaves them out.
        seed: of all that is drawn.
        say: where progress lines go.

    Returns:
        The content of `probe.json`; `verdict` says in one line whether both modalities are used.

    Raises:
        UserError: not a finished run, or one with a single kind of modality.
    """
    run = Path(run)
    if posts < 2 or corrupted < 0:
        raise UserError(f"posts = {posts}, corrupted = {corrupted}: at least 2 posts for EMAP, and no negative number")
    if not (run / "metrics.json").is_file():
        raise UserError(f"{run} is not a finished run (no metrics.json): train it with `clfa train`")
    config = load_config(RunConfig, run / "config.yaml")
    sides: dict[str, list[str]] = {"text": [], "image": []}
    for name, modality in config.model.modalities.items():
        sides[modality.kind].append(name)
    if not all(sides.values()):
        raise UserError(f"{run} reads {', '.join(config.model.modalities)} only: there is nothing to probe")
    rows = open_split(run, config, split, "probe")
    model = Classifier.from_pretrained(run)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    preparers = {name: model.encoders[m.shares or name].preparer for name, m in model.config.modalities.items()}
    states = cache_states(model, dataset_path(config.data), source_splits(config.data, [split]))

    say(f"{run}: reading {len(rows):,} posts")
    parts = read_parts(model, rows, Collator(model.config.modalities, preparers, states))
    blank = read_parts(model, [_blank(rows[0], model.config.modalities)], Collator(model.config.modalities, preparers))
    parts = parts.joined(blank)
    truth, everyone = np.array(rows["label"]), np.arange(len(rows))
    generator = np.random.default_rng(seed)
    predicted = parts.predict(everyone, everyone)

    judge = _Judge(truth, predicted, len(model.labels))
    chosen = everyone if len(rows) <= posts else np.sort(generator.choice(everyone, posts, replace=False))
    say(f"{run}: EMAP, {len(chosen):,} x {len(chosen):,} pairs")
    result: dict[str, Any] = {
        "run": run.name,
        "split": split,
        "posts": len(rows),
        **judge.values(predicted),
        "verdict": "",
        "emap": _emap(parts, chosen, judge),
        "modalities": {},
        "missing": {},
        "corruptions": {},
    }
    say(f"{run}: shuffled, blanked and missing modalities")
    for side in sides:
        result["modalities"][side] = _counterfactuals(parts, side, judge, generator, len(rows))
        result["missing"][side] = _missing(parts, side, judge, generator)
    if corrupted:
        some = everyone if len(rows) <= corrupted else np.sort(generator.choice(everyone, corrupted, replace=False))
        result["corruptions"] = _corruptions(model, rows.select(some), preparers, states, truth[some], seed, say)
    result["verdict"] = verdict(result)
    (run / "probe.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_card(run)
    if split in json.loads((run / "metrics.json").read_text(encoding="utf-8")):
        from clfa.report.run_page import write_run_report

        write_run_report(run, split, rows)
    return result


def emap(logits: Float[NDArray, "posts posts classes"]) -> Float[NDArray, "posts classes"]:
    """Empirical multimodally-additive projection (Hessel and Lee 2020, equation 3).

    EMAP_i = mean_j f(t_i, v_j) + mean_j f(t_j, v_i) - mean_jk f(t_j, v_k); of an additive model, the model itself.

    Args:
        logits: f(t_i, v_j) for each text i with each image j.
    """
    return logits.mean(axis=1) + logits.mean(axis=0) - logits.mean(axis=(0, 1))


def verdict(result: dict[str, Any]) -> str:
    """One line; a gain or a use is claimed only where its interval excludes 0."""
    gain = result["emap"]["gain"]["accuracy"]
    losses = {side: result["modalities"][side]["shuffled"]["loss"]["accuracy"] for side in ("text", "image")}
    unused = [side for side, found in losses.items() if found["ci95"][0] <= 0]
    costs = ", ".join(f"shuffling the {side}s costs {_points(found)}" for side, found in losses.items())
    if unused:
        return f"no evidence that the {' or the '.join(unused)} is used ({costs})"
    # with few posts that only one of both has right, a bootstrap is too sure: the exact test must agree
    if gain["ci95"][0] > 0 and result["emap"]["mcnemar_p"] <= 0.05:
        return f"multimodal gain {_points(gain)} ({costs})"
    return (
        f"both are used ({costs}), but no evidence of a multimodal gain: {_points(gain)} over the best additive model"
    )


class _Judge:
    """Compares other predictions of the same posts with those of the model."""

    def __init__(self, truth: NDArray, predicted: NDArray, classes: int):
        self.truth, self.predicted, self.classes = truth, predicted, classes

    def values(self, predictions: NDArray) -> dict[str, float]:
        """Scores of (N,) or (runs, N) predictions, mean over runs."""
        matrices = np.stack([confusion(self.truth, found, self.classes) for found in np.atleast_2d(predictions)])
        found = scores(matrices)
        return {name: float(found[name].mean()) for name in SHOWN}

    def loss(self, predictions: NDArray) -> dict[str, Any]:
        """Scores of the model minus those of (N,) or (runs, N) predictions, with intervals."""
        others = np.atleast_2d(predictions)
        return {
            name: _interval(
                paired_bootstrap(self.truth, others, self.predicted[None], self.classes, name, resamples=2_000)
            )
            for name in SHOWN
        }

    def of(self, numbers: NDArray) -> "_Judge":
        """The same for some posts."""
        return _Judge(self.truth[numbers], self.predicted[numbers], self.classes)


def _emap(parts: Parts, chosen: NDArray, judge: _Judge) -> dict[str, Any]:
    count = len(chosen)
    pairs = parts.logits(np.repeat(chosen, count), np.tile(chosen, count)).reshape(count, count, -1)
    additive = emap(pairs).argmax(1)
    exact, judge = count == len(judge.truth), judge.of(chosen)
    _, _, p = mcnemar(judge.truth, judge.predicted, additive)
    return {
        "posts": count,
        "exact": exact,
        "model": judge.values(judge.predicted),
        **judge.values(additive),
        "gain": judge.loss(additive),
        "mcnemar_p": p,
    }


def _counterfactuals(
    parts: Parts, side: str, judge: _Judge, generator: np.random.Generator, blank: int
) -> dict[str, Any]:
    count = len(judge.truth)
    everyone = np.arange(count)
    ways = {
        "shuffled": np.stack([generator.permutation(count) for _ in range(PERMUTATIONS)]),
        "blanked": np.full((1, count), blank),
        "masked": np.full((1, count), ABSENT),
    }
    result: dict[str, Any] = {}
    for way, drawn in ways.items():
        pairs = [(places, everyone) if side == "text" else (everyone, places) for places in drawn]
        predictions = np.stack([parts.predict(*pair) for pair in pairs])
        result[way] = {**judge.values(predictions), "loss": judge.loss(predictions)}
    accuracy = judge.values(judge.predicted)["accuracy"]
    result["perceptual_score"] = result["shuffled"]["loss"]["accuracy"]["value"] / accuracy if accuracy else 0.0
    return result


def _missing(parts: Parts, side: str, judge: _Judge, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Accuracy by share of posts without the modality; a post's answer does not depend on the others, so two passes do."""
    everyone, nobody = np.arange(len(judge.truth)), np.full(len(judge.truth), ABSENT)
    without = parts.predict(nobody, everyone) if side == "text" else parts.predict(everyone, nobody)
    result = []
    for share in MISSING:
        gone = np.argsort(generator.random((PERMUTATIONS, len(everyone))), axis=1) < round(share * len(everyone))
        predictions = np.where(gone, without, judge.predicted)
        result.append({"share": share, **judge.values(predictions), "loss": judge.loss(predictions)})
    return result


def _corruptions(
    model: Classifier,
    rows: Any,
    preparers: dict[str, Any],
    states: dict[str, Cache],
    truth: NDArray,
    seed: int,
    say: Say,
) -> dict[str, Any]:
    posts = [_bounded(dict(row)) for row in rows]
    clean_predictions = _predict(model, posts, Collator(model.config.modalities, preparers))
    judge = _Judge(truth, clean_predictions, len(model.labels))
    clean = judge.values(judge.predicted)["accuracy"]
    result: dict[str, Any] = {"posts": len(posts), "accuracy": clean}
    suites: dict[
        str, tuple[dict[str, Any], Callable[[dict[str, Any], str, int, np.random.Generator], dict[str, Any]]]
    ] = {
        "image": (IMAGE_CORRUPTIONS, _with_bad_image),
        "text": (TEXT_CORRUPTIONS, _with_bad_text),
    }
    for side, (suite, change) in suites.items():
        result[side] = {}
        kept = {name: cache for name, cache in states.items() if model.config.modalities[name].kind != side}
        collator = Collator(model.config.modalities, preparers, kept)
        for name in suite:
            say(f"corruption of the {side}: {name}")
            predictions = []
            for severity in SEVERITIES:
                changed = [
                    change(post, name, severity, np.random.default_rng([seed, number, severity]))
                    for number, post in enumerate(posts)
                ]
                predictions.append(_predict(model, changed, collator))
            drop = judge.loss(np.stack(predictions))["accuracy"]
            result[side][name] = {
                "accuracy": [judge.values(found)["accuracy"] for found in predictions],
                "relative_drop": {
                    "value": drop["value"] / max(clean, 1e-9),
                    "ci95": [bound / max(clean, 1e-9) for bound in drop["ci95"]],
                },
            }
    return result


def _predict(model: Classifier, posts: list[dict[str, Any]], collator: Collator) -> NDArray[np.int64]:
    return compute_logits(model, posts, collator, 64).argmax(1).numpy()


def _bounded(post: dict[str, Any]) -> dict[str, Any]:
    """Large pictures shrunk to 512 pixels, before corruption and in what it is compared with."""
    if not post.get("image"):
        return post
    image = open_image(post["image"]["bytes"])
    if max(image.size) <= LONGEST_SIDE:
        return post
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return {**post, "image": {"bytes": _stored(image), "path": None}}


def _stored(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _with_bad_image(post: dict[str, Any], name: str, severity: int, generator: np.random.Generator) -> dict[str, Any]:
    if not post.get("image"):
        return post
    bad = corrupt_image(open_image(post["image"]["bytes"]), name, severity, generator)
    return {**post, "image": {"bytes": _stored(bad), "path": None}}


def _with_bad_text(post: dict[str, Any], name: str, severity: int, generator: np.random.Generator) -> dict[str, Any]:
    text = corrupt_text(post["text"] or "", name, severity, generator)
    return {**post, "text": text, "dependencies": None}  # those were of its words


def _blank(row: dict[str, Any], modalities: dict[str, ModalityConfig]) -> dict[str, Any]:
    """A post that says nothing: empty texts, grey pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (224, 224), (127, 127, 127)).save(buffer, "PNG")
    grey = {"bytes": buffer.getvalue(), "path": None}
    blank = {modality.column or name: "" if modality.kind == "text" else grey for name, modality in modalities.items()}
    return row | blank | {"dependencies": None}


def _interval(found: Difference) -> dict[str, Any]:
    return {"value": found.value, "ci95": list(found.ci95)}


def _points(found: dict[str, Any]) -> str:
    value, low, high = (round(100 * number, 1) + 0.0 for number in (found["value"], *found["ci95"]))
    return f"{value:.1f} points [{low:.1f}, {high:.1f}]"
