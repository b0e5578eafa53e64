"""A table of posts in, the best model that its data supports out: what `clfa fit` does, as a story.

Simple models on frozen encoders are compared out of fold on the training and validation posts, and the simplest that cannot
be told from the best is taken. Where the budget holds it, the text encoder is fine-tuned; it, or its blend with the simple
model, takes over if it is told to be better on validation. The test split is opened once, at the end.
"""

import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clfa.config import DataConfig, LossConfig, ModalityConfig, ModelConfig, ProbeConfig, RunConfig
from clfa.data.atomic import replacing, write_text
from clfa.data.cache import Engine, kept
from clfa.data.guessing import guess_columns, guess_columns_of
from clfa.data.lock import only_one
from clfa.data.places import place
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.data.tables import OPTIONS, read_table
from clfa.data.writing import write_dataset
from clfa.errors import TimeUp, UserError
from clfa.evidence.evaluate import evaluate
from clfa.evidence.redundancy import advice, information
from clfa.evidence.results import Fit, read_result, write_result
from clfa.metrics import OF_PROBABILITIES, metric_names
from clfa.model.blend import Blend
from clfa.model.classifier import Classifier, build_classifier
from clfa.model.encoders import has_weights, load_encoder
from clfa.model.pipeline import Pipeline
from clfa.report.page import write_evaluation
from clfa.runs import Run
from clfa.studies.candidates import Trial, choose, offsets_of, try_candidates
from clfa.studies.contest import BLEND, SIMPLE, Contest, contest
from clfa.studies.networks import Trained, fine_tune, fuse, seconds_of_a_text
from clfa.training.probe import groups_of, keep_probe, read_features

if TYPE_CHECKING:
    from pandas import DataFrame

PRESETS = {
    "small": {"text": "sentence-transformers/all-MiniLM-L6-v2", "image": "google/mobilenet_v2_1.0_224"},
    "strong": {"text": "sentence-transformers/all-mpnet-base-v2", "image": "google/efficientnet-b2"},
    "clip": {"text": "openai/clip-vit-base-patch32", "image": "openai/clip-vit-base-patch32"},
}
"""Encoders by hub name."""

VIEWS = 3
"""Of a test post at the end, about: as it is, without a formatting cue that it has, and without all of them."""

log = logging.getLogger(__name__)


def fit(
    source: "str | Path | DataFrame",
    out: str | Path,
    minutes: float = 10.0,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    preset: str = "small",
    metric: str = "macro_f1",
    columns: Mapping[str, str] | None = None,
    folds: int = 0,
    fold: int = 0,
    teacher: str | None = None,
    engine: Engine = "plain",
) -> Fit:
    """Find, fit, calibrate and test the best model within a budget; write a run directory with `leaderboard.json`.

    Features of the encoders are cached beside the data: a fit that was stopped goes on from them when it is started again.
    One that is finished is not done again, unless there are more minutes now for what was left out.

    Args:
        source: a dataset directory; a CSV, TSV, JSONL or Parquet file, or a pandas DataFrame, that is imported into
            `OUT/data`. Images are paths (of a file: relative to it, and below its folder; of a DataFrame: as in Python) or
            bytes.
        out: run directory to write.
        minutes: the budget, from the start on. Features are not cut short; of the models those that fit in are tried.
        text_encoder: local folder, hub name or `package:`; that of the preset by default.
        image_encoder: the same for images.
        preset: encoders by hub name, see `PRESETS`.
        metric: what the model is chosen by, on posts out of fold.
        columns: our name -> column name where a table's columns are to be named; others are guessed, and said.
        folds: cross-validate the whole fit over all splits: number of folds, and …
        fold: … the one that is held out as test.
        teacher: a dual encoder (folder or hub name). With it a fusion is trained, too, with no alignment and with several
            weights, of which validation chooses.
        engine: `ray` computes features and fits simple models on a cluster; a network is trained here.

    Raises:
        UserError: the source cannot be read, an encoder cannot be loaded, there is no such metric or preset, or no cluster.
    """
    started = time.monotonic()
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r}: allowed are {', '.join(PRESETS)}")
    encoders = {"text": text_encoder or PRESETS[preset]["text"], "image": image_encoder or PRESETS[preset]["image"]}
    with only_one(Path(out), inside=True), kept(engine):
        return _fit(source, Run(out), minutes, encoders, metric, columns, folds, fold, teacher, started, engine)


def _fit(
    source: "str | Path | DataFrame",
    run: Run,
    minutes: float,
    encoders: dict[str, str],
    metric: str,
    columns: Mapping[str, str] | None,
    folds: int,
    fold: int,
    teacher: str | None,
    started: float,
    engine: Engine,
) -> Fit:
    data = DataConfig(_dataset(source, run, columns or {}), train_splits=["train", "validation"])
    data = replace(data, folds=folds, fold=fold)
    asked = _asked(metric, encoders | ({"teacher": teacher} if teacher else {}), data)
    if (before := _finished(run, asked)) and not (before.left_out and minutes > before.minutes):
        log.info("%s: already finished", run)
        return before
    rows, class_names = load_rows(data, "train"), load_manifest(data.path)["labels"]
    fresh = {name for name, one in encoders.items() if rows.has(name) and not has_weights(one)}
    modalities = {
        name: ModalityConfig(name, _drawn(name, one, run) if name in fresh else one, frozen=True)
        for name, one in encoders.items()
        if rows.has(name)
    }
    if not modalities:
        raise UserError(f"{data.path} has posts with neither texts nor images")
    log.info("%s posts, %s classes; features of %s", f"{len(rows):,}", len(class_names), ", ".join(modalities))
    features = read_features(_pipeline(data, modalities, ProbeConfig(), engine), rows)
    pace = seconds_of_a_text(load_encoder(modalities["text"].encoder, "text"), rows) if "text" in modalities else 0.0
    budget = 60 * minutes
    half, deadline = started + budget / 2, started + budget - max(budget / 10, VIEWS * pace * _test_posts(data))
    trials, left_out = try_candidates(features, rows.labels, len(class_names), groups_of(rows), metric, half, engine)
    trials, chosen = choose(trials, rows.labels, len(class_names), metric)
    networks, untrained = _networks(data, modalities, fresh, chosen, teacher, run.path / "candidates", deadline, pace)
    result = contest(chosen, networks, load_rows(data, "validation").labels, rows.labels, metric)
    for old in (run.metrics_file, run.leaderboard_file):  # of a fit with less time, or one that was stopped behind here
        old.unlink(missing_ok=True)
    offsets = offsets_of(rows.labels, len(class_names), chosen.decided.shift).tolist()
    _keep(run, data, modalities, chosen, networks, result, offsets, teacher)
    evaluation = evaluate(run.path, "test", engine=engine)
    fitted = Fit(
        asked=asked,
        metric=metric,
        posts=len(rows),
        test_posts=evaluation.rows,
        tried=[each.result(each is chosen) for each in trials],
        on_validation=result.table,
        metrics=evaluation.metrics,
        openings=run.openings(data.path),
        floors=evaluation.floors,
        minutes=minutes,
        seconds=round(time.monotonic() - started, 1),
        left_out=[*left_out, *untrained],
        advice=_advice(rows, trials, chosen, metric),
    )
    write_result(run.leaderboard_file, fitted)
    write_evaluation(run, evaluation)
    return fitted


def _dataset(source: "str | Path | DataFrame", run: Run, columns: Mapping[str, str]) -> str:
    """The dataset directory: the source, or what the table is imported to."""
    root = None
    if not isinstance(source, str | Path):
        source, root = _written(source, run, columns), Path("/")
    path, target = place(source), run.path / "data"
    if (path / "dataset.json").is_file():
        return str(path)
    guessed = guess_columns(str(path), columns)
    state = path.stat()
    imported = f"{path.resolve()}, {state.st_size} bytes, {state.st_mtime_ns}, {json.dumps(guessed)}"
    if (target / "dataset.json").is_file():
        if load_manifest(target).get("imported") != imported:
            raise UserError(
                f"{target} holds another table, or this one as it was before a change: choose another --out, or delete it"
            )
        return str(target)
    log.info("columns: %s", ", ".join(f"{name} = {column}" for name, column in guessed.items()))
    images, names = "image" in guessed, dict(zip(OPTIONS, OPTIONS)) | guessed
    rows, class_names, described = read_table(str(path), root, names, embed=images, texts="text" in guessed)
    described |= {"reader": "table", "imported": imported}
    write_dataset(rows, str(target), class_names, described, "normalised", "embedded" if images else "none", "fail")
    return str(target)


def _written(frame: "DataFrame", run: Run, columns: Mapping[str, str]) -> Path:
    """A DataFrame as `OUT/table.parquet`, paths of images made absolute; the file stays as it is where it is the same."""
    path, buffer = run.path / "table.parquet", io.BytesIO()
    named = guess_columns_of([str(name) for name in frame.columns], "the DataFrame", columns)
    if "image" in named:
        cells = frame[named["image"]]
        frame = frame.assign(
            **{named["image"]: [str(Path(c).absolute()) if isinstance(c, str) and c else c for c in cells]}
        )
    frame.to_parquet(buffer, index=False)
    if not path.is_file() or path.read_bytes() != buffer.getvalue():
        run.path.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(buffer.getvalue())
    return path


def _asked(metric: str, models: Mapping[str, str], data: DataConfig) -> dict[str, str]:
    """What was asked for, which a finished fit in the same place must have been asked for, too."""
    manifest = load_manifest(data.path)
    allowed = [name for name in metric_names(len(manifest["labels"])) if name not in OF_PROBABILITIES]
    if metric not in allowed:
        raise UserError(f"metric {metric!r}: allowed are {', '.join(allowed)}")
    hashes = {name: split["sha256"][:16] for name, split in manifest["splits"].items()}
    return {
        "metric": metric,
        **models,
        "splits": json.dumps(hashes),
        "folds": str(data.folds),
        "fold": str(data.fold),
    }


def _finished(run: Run, asked: Mapping[str, str]) -> Fit | None:
    """What a finished fit in the same place found, if there is one."""
    if not (run.is_finished and run.leaderboard_file.is_file()):
        return None
    result = read_result(Fit, run.leaderboard_file)
    other = [name for name, value in asked.items() if result.asked.get(name) != value]
    if other:
        raise UserError(f"{run} holds another fit ({', '.join(other)} differ): choose another --out, or delete it")
    return result


def _pipeline(
    data: DataConfig, modalities: dict[str, ModalityConfig], probe: ProbeConfig, engine: Engine = "plain"
) -> Pipeline:
    """Frozen encoders below a probe that is not fitted yet, their features cached; test is not opened, but with folds."""
    manifest = load_manifest(data.path)
    pipeline = Pipeline(build_classifier(ModelConfig(modalities, probe=probe), manifest["labels"], manifest["text"]))
    pipeline.cache(Path(data.path), source_splits(data, ["train"]), engine)
    return pipeline


def _test_posts(data: DataConfig) -> int:
    """Their number by the manifest; the split is not opened."""
    counts = {name: split["rows"] for name, split in load_manifest(data.path)["splits"].items()}
    return sum(counts.values()) // data.folds if data.folds else counts.get("test", 0)


def _networks(
    data: DataConfig,
    modalities: dict[str, ModalityConfig],
    fresh: Set[str],
    chosen: Trial,
    teacher: str | None,
    folder: Path,
    deadline: float,
    seconds_a_text: float,
) -> tuple[dict[str, Trained], list[str]]:
    """What can be trained in time, the simpler first, and sentences on what was left out; on train alone, as validation
    chooses the epoch. A text encoder with `fresh` weights has nothing that could be fine-tuned."""
    data = replace(data, train_splits=["train"])
    jobs: dict[str, Callable[[], Trained]] = {}
    if "text" in modalities and "text" not in fresh:
        own = chosen.candidate.modalities
        jobs["fine_tuned"] = lambda: fine_tune(data, modalities, own, folder / "fine_tuned", deadline, seconds_a_text)
    if teacher and len(modalities) > 1:
        jobs["fused"] = lambda: fuse(data, modalities, fresh, teacher, folder / "fused", deadline)
    networks, left_out = {}, []
    for name, job in jobs.items():
        try:
            networks[name] = job()
        except TimeUp as up:
            log.info("left out: %s", up)
            left_out.append(str(up))
    return networks, left_out


def _drawn(kind: str, name: str, run: Run) -> str:
    """The folder of an encoder that has an architecture and no weights, with weights that are drawn once."""
    folder = run.path / "encoders" / kind
    if not any(folder.glob("*.safetensors")):
        log.info("%s has no weights: they are drawn", name)
        torch.manual_seed(0)
        encoder = load_encoder(name, kind, pretrained=False)
        encoder.preparer.save_pretrained(folder)
        encoder.backbone.save_pretrained(folder)
    return str(folder)


def _keep(
    run: Run,
    data: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    chosen: Trial,
    networks: Mapping[str, Trained],
    result: Contest,
    offsets: list[float],
    teacher: str | None,
) -> None:
    """What was taken becomes the run: the probe as it was fitted on train and validation, a network with its temperature, or
    a blend of both."""
    for stale in (SIMPLE, "network"):  # of a blend that a longer fit replaces
        shutil.rmtree(run.path / stale, ignore_errors=True)
    own = {name: modalities[name] for name in chosen.candidate.modalities}
    probe = chosen.candidate.probe
    loss = LossConfig(alignment_weight=0)
    config = RunConfig(data, ModelConfig(own, probe=probe), str(run.path), loss=loss, teacher=teacher)
    pipeline = _pipeline(data, own, probe)
    if result.taken == SIMPLE:
        run.begin(config, resume=True)
        keep_probe(chosen.fitted, pipeline, run, offsets)
        return
    network = networks[result.blended if result.taken == BLEND else result.taken]
    model = Classifier.from_pretrained(network.run.path)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.div_(network.temperature)
    if result.taken == BLEND:
        pipeline.model.probe = chosen.fitted.probe
        model = Blend({SIMPLE: pipeline.model, "network": model}).eval()
        config = replace(config, model=model.config)
    else:
        config = replace(network.run.config(), output=str(run.path), teacher=teacher)
    model.offsets = offsets
    run.begin(config, resume=True)
    model.save_pretrained(run.path)
    write_text(run.log_file, network.run.log_file.read_text(encoding="utf-8"))
    run.finish(network.run.metrics()["training"])


def _advice(rows: Rows, trials: Sequence[Trial], chosen: Trial, metric: str) -> list[str]:
    """What to try next, from what was seen."""
    alone: dict[str, float] = {}
    for each in trials:  # the best first
        if len(each.candidate.modalities) == 1:
            alone.setdefault(each.candidate.modalities[0], each.decided.metrics[metric].value)
    lines = [
        f"the {name} adds nothing that {len(rows):,} posts can tell: a stronger {name} encoder may"
        for name in alone
        if name not in chosen.candidate.modalities
    ]
    lines += [
        f"the {name} alone reaches {100 * value:.1f}: most of the signal is elsewhere"
        for name, value in alone.items()
        if value < max(alone.values()) - 0.1
    ]
    counts = np.bincount(rows.labels)
    if counts.min() < 50:
        lines.append(f"the rarest class has {counts.min()} posts: more of them are worth more than another model")
    linear = {
        "both" if len(each.candidate.modalities) > 1 else each.candidate.modalities[0]: each.decided.log_probabilities
        for each in trials
        if each.candidate.probe == ProbeConfig("logistic_regression", 1.0)
    }
    if {"text", "image", "both"} <= linear.keys():
        lines.append(advice(information(rows.labels, linear)))
    return [*lines, "train a fusion with `clfa train`, and set it beside this run with `clfa compare`"]
