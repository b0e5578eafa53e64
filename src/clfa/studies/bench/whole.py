"""Training and inference of the paper's full-size model, beside the loop that one writes first."""

import importlib.util
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clfa.config import RunConfig
from clfa.data.images import open_image
from clfa.data.rows import Rows, load_split
from clfa.errors import UserError
from clfa.model.arithmetic import arithmetic, precisions, products
from clfa.model.modalities import kind_of
from clfa.model.pipeline import Pipeline
from clfa.serving.onnx import OnnxPipeline
from clfa.studies.bench.material import config_of, padded_lengths
from clfa.studies.bench.measure import Suite, Way, alternate, matmul_rate, now
from clfa.studies.bench.plain import PlainLoop
from clfa.studies.export import quantise, write_export
from clfa.training.memory import memory_kept
from clfa.training.setup import Setup, set_up
from clfa.training.train import loss_terms

BATCH = 8
POSTS = 16
"""Of a round; those of one bucket, in batches."""
STAGE = "stage: "
STEP = "step.py"
"""File of a reference: its `step(texts, images, labels)` trains on these texts, RGB images and class numbers, once."""


def train_suite(rounds: int, layers: int, reference: Path | None = None) -> Suite:
    """Milliseconds a post of a training step, with all that the loop does in each epoch to prepare it; what ours computes
    once, before the first (token ids, resized images, states of frozen encoders), is not in it."""
    with tempfile.TemporaryDirectory() as name:
        config = config_of(Path(name), layers, POSTS, **{"train.batch_size": BATCH})
        setup = set_up(config)
        ours = [batch.tolist() for batch in setup.sampler.all_batches()]
        mixed = random.Random(0).sample(range(POSTS), POSTS)
        plain = [mixed[at : at + BATCH] for at in range(0, POSTS, BATCH)]
        loop = PlainLoop(setup, config, bf16=False)

        def plainly(bf16: bool) -> int:
            loop.bf16 = bf16
            return sum(loop.step(places) for places in plain * 2)

        # each does its batches twice, as in its first step memory has to be got
        ways: dict[str, Way] = {"plain, fp32": partial(plainly, False), "plain, bf16": partial(plainly, True)}
        for kind in precisions(setup.pipeline.device):
            own = replace(config, train=replace(config.train, precision=kind))
            ways[f"ours, {kind}"] = partial(_train, setup, own, ours * 2)
        frozen = {f"model.modalities.{side}.frozen": True for side in ("text", "image")}
        still = config_of(Path(name), layers, POSTS, **{"train.batch_size": BATCH, **frozen})
        cached = set_up(still)
        ways["ours, encoders frozen"] = partial(_train, cached, still, ours * 2)
        if reference:
            ways["reference"] = partial(_refer, _load_step(reference), setup.rows, plain)
        times = alternate(ways, rounds)
        fp32 = [way for way in ("ours, fp32", "ours, fp32_by_bf16") if way in times]
        fastest = min(fp32, key=lambda way: sum(times[way]))
        pairs = {
            "portable": ("plain, fp32", "ours, fp32"),
            "fp32": ("plain, fp32", fastest),
            **(
                {"bf16": ("plain, fp32", "ours, bf16"), "bf16 against plain bf16": ("plain, bf16", "ours, bf16")}
                if "ours, bf16" in times
                else {}
            ),
            "frozen": (fastest, "ours, encoders frozen"),
            **({"reference": ("reference", fastest)} if reference else {}),
        }
        goals = {"portable": 1.7, "fp32": 2.5, "bf16": 4.0, "frozen": 5.0}
        padded = {"tokens of a text, padded, mean": padded_lengths(setup, ours)}
        further = {"fp32 is": fastest, **padded, **_floor(setup, config, loop, ours, plain, times)}
        if "ours, bf16" in times:
            in_bf16 = replace(config, train=replace(config.train, precision="bf16"))
            further["ms a post of a step in bf16"] = _parts(setup, in_bf16, ours * 2)
        return Suite(times, pairs, goals, further | _differences(setup, config, loop, ours))


def _train(setup: Setup, config: RunConfig, batches: list[list[int]]) -> int:
    setup.model.train()
    with products(config.train.precision), memory_kept():
        for places in batches:
            batch = setup.batches.collate_fn([setup.rows[place] for place in places])
            loss_terms(setup, config, batch, 0.5, [len(places)])["loss"].backward()
            torch.nn.utils.clip_grad_norm_(setup.model.parameters(), config.train.clip)
            setup.optimizer.step()
            setup.optimizer.zero_grad()
    return sum(map(len, batches))


def _load_step(folder: Path) -> Callable[..., object]:
    path = folder / STEP
    if not path.is_file():
        raise UserError(
            f"{path} is missing: a file with a function step(texts, images, labels) that trains once on them"
        )
    spec = importlib.util.spec_from_file_location("reference_step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.step


def _refer(step: Callable[..., object], rows: Rows, batches: list[list[int]]) -> int:
    for places in batches:
        chosen = [rows[place] for place in places]
        images = [open_image(row["image"]["bytes"]) for row in chosen]
        step([row["text"] for row in chosen], images, [row["label"] for row in chosen])
    return sum(map(len, batches))


def _parts(setup: Setup, config: RunConfig, batches: list[list[int]]) -> dict[str, float]:
    """Milliseconds a post of each part of a step."""
    setup.model.train()
    laps = np.zeros(5)
    with products(config.train.precision), memory_kept():
        for places in batches:
            marks = [now()]
            batch = setup.batches.collate_fn([setup.rows[place] for place in places])
            marks.append(now())
            loss = loss_terms(setup, config, batch, 0.5, [len(places)])["loss"]
            marks.append(now())
            loss.backward()
            marks.append(now())
            torch.nn.utils.clip_grad_norm_(setup.model.parameters(), config.train.clip)
            marks.append(now())
            setup.optimizer.step()
            setup.optimizer.zero_grad()
            marks.append(now())
            laps += np.diff(marks)
    each = 1_000 * laps / sum(map(len, batches))
    return dict(zip(("batch", "forward", "backward", "gradient norm", "optimizer"), each.round(1).tolist()))


def _floor(
    setup: Setup,
    config: RunConfig,
    loop: PlainLoop,
    ours: list[list[int]],
    plain: list[list[int]],
    times: dict[str, list[float]],
) -> dict[str, Any]:
    """Counted FLOPs of a post, the rate of one large product in each precision, and the share of it that a step reaches."""
    loop.bf16 = False
    counts = {}
    for name, work in {
        "plain": lambda: sum(loop.step(places) for places in plain),
        "ours": lambda: _train(setup, config, ours),
    }.items():
        with FlopCounterMode(display=False) as counter:
            posts = work()
        counts[name] = counter.get_total_flops() / posts / 1e9
    rates: dict[str, float] = {}
    for kind in precisions(setup.pipeline.device):
        with products(kind):
            rates[kind] = matmul_rate(torch.bfloat16 if kind == "bf16" else torch.float32) / 1e9
    ways = {"plain, fp32": ("plain", "fp32"), **{f"ours, {kind}": ("ours", kind) for kind in rates}}
    shares = {
        way: round(counts[of] / (sum(times[way]) / len(times[way]) / 1_000) / rates[kind], 2)
        for way, (of, kind) in ways.items()
    }
    return {
        "GFLOPs a post": {name: round(count, 1) for name, count in counts.items()},
        "GFLOPs a second of one product": {name: round(rate) for name, rate in rates.items()},
        "share of it": shares,
    }


@torch.no_grad()
def _differences(setup: Setup, config: RunConfig, loop: PlainLoop, batches: list[list[int]]) -> dict[str, Any]:
    """Largest difference of a logit from plain fp32."""
    loop.bf16, largest = False, {}
    expected = torch.cat([loop.logits(places) for places in batches])
    for kind in precisions(setup.pipeline.device):
        logits = []
        for places in batches:
            batch = setup.batches.collate_fn([setup.rows[place] for place in places]).to(setup.pipeline.device)
            with arithmetic(kind, setup.pipeline.device):
                logits.append(setup.model.eval()(batch).logits.float())
        largest[f"ours, {kind}"] = float((torch.cat(logits) - expected).abs().max())
    return {"logits differ from plain fp32 by at most": largest, "largest logit": float(expected.abs().max())}


def infer_suite(rounds: int, layers: int) -> Suite:
    """Milliseconds a post of an answer, one by one and in batches of 32, with all that is done to prepare it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder, layers, 32, **{"loss.alignment_weight": 0, "train.epochs": 1})
        setup = set_up(config)
        loop = PlainLoop(setup, config, bf16=False)
        setup.model.save_pretrained(folder / "saved")
        pipelines = {kind: Pipeline.load(folder / "saved", 32, kind) for kind in precisions(setup.pipeline.device)}
        pipeline = pipelines["fp32"]
        posts = [setup.rows[place] for place in range(32)]
        exports = _exports(pipeline, [dict(post) for post in posts], folder)

        def plainly(bf16: bool, size: int) -> Tensor:
            loop.bf16 = bf16
            return torch.cat(
                [loop.logits(range(at, at + size)) for at in range(0, len(posts) if size > 1 else 8, size)]
            )

        def ours(one: Any, size: int) -> Tensor:
            each = [posts] if size > 1 else [[post] for post in posts[:8]]
            return torch.cat([torch.as_tensor(one.logits(part, "")) for part in each])

        answers: dict[str, Callable[[], Tensor]] = {}
        for size in (1, 32):
            answers |= {
                f"plain, fp32, {size}": partial(plainly, False, size),
                **{f"ours, {kind}, {size}": partial(ours, one, size) for kind, one in pipelines.items()},
                **{f"{kind}, {size}": partial(ours, one, size) for kind, one in exports.items()},
            }
        ways: dict[str, Way] = {way: partial(_count, answer) for way, answer in answers.items()}
        times = alternate(ways | _stages(pipeline, Path(config.data.path)), rounds)
        differences = {
            way: float((answers[way]() - answers[f"plain, fp32, {way.split(', ')[-1]}"]()).abs().max())
            for way in answers
            if not way.startswith("plain")
        }
        pairs = {
            "int8, one by one": ("plain, fp32, 1", "ONNX int8, 1"),
            "ONNX, one by one": ("plain, fp32, 1", "ONNX, 1"),
            "bf16, batches of 32": ("plain, fp32, 32", "ours, bf16, 32"),
            "bf16, one by one": ("plain, fp32, 1", "ours, bf16, 1"),
            "fp32, batches of 32": ("plain, fp32, 32", "ours, fp32, 32"),
            **(
                {"fp32_by_bf16, batches of 32": ("plain, fp32, 32", "ours, fp32_by_bf16, 32")}
                if "fp32_by_bf16" in pipelines
                else {}
            ),
            "int8, batches of 32": ("plain, fp32, 32", "ONNX int8, 32"),
        }
        goals = {"int8, one by one": 5.0, "ONNX, one by one": 1.7, "bf16, batches of 32": 2.7}
        medians = {way.removeprefix(STAGE): statistics.median(times[way]) for way in times if way.startswith(STAGE)}
        further = {
            "logits differ from plain fp32 by at most": differences,
            "posts a second and core, by stage": {stage: round(1_000 / ms) for stage, ms in medians.items()},
            "slowest stage": max(medians, key=lambda stage: medians[stage]),
        }
        return Suite(times, pairs, goals, further)


def _stages(pipeline: Pipeline, dataset: Path) -> dict[str, Way]:
    """What an answer is made of, 32 posts at a time, in fp32: each stage takes what the one before it gives."""
    model, config, device = pipeline.model.eval(), pipeline.config, pipeline.device
    rows = load_split(dataset, "train")[:32]
    batch = pipeline.collate(list(rows)).to(device)
    kinds = {name: kind_of(modality) for name, modality in config.modalities.items()}
    raw = {
        name: [kind.read(row[config.column(name)], config.modalities[name]) for row in rows]
        for name, kind in kinds.items()
    }
    decoded = {name: [kinds[name].decode(value) for value in values] for name, values in raw.items()}
    tokens = _without_gradient(model.project, batch)

    def prepare(name: str) -> None:
        kinds[name].prepare(pipeline.preparers[name], decoded[name], config.modalities[name].max_length)

    stages: dict[str, Callable[[], Any]] = {
        "read": lambda: [row["image"] for row in load_split(dataset, "train")[:32]],
        "decode": lambda: [kinds["image"].decode(value) for value in raw["image"]],
        "resize, normalise": partial(prepare, "image"),
        "tokenize": partial(prepare, "text"),
        **{f"encode {name}": partial(_without_gradient, model.encode, name, batch.modalities[name]) for name in kinds},
        "fuse": partial(_without_gradient, model.fuse, tokens),
    }

    def way(stage: Callable[[], Any]) -> int:
        stage()
        return len(rows)

    return {STAGE + name: partial(way, stage) for name, stage in stages.items()}


@torch.no_grad()
def _without_gradient(work: Callable[..., Any], *given: Any) -> Any:
    return work(*given)


def _count(answer: Callable[[], Tensor]) -> int:
    return len(answer())


def _exports(pipeline: Pipeline, posts: Sequence[Any], folder: Path) -> dict[str, OnnxPipeline]:
    made = {}
    for kind, place in (("ONNX", folder / "onnx"), ("ONNX int8", folder / "int8")):
        place.mkdir()
        write_export(pipeline, list(posts), place)
        if kind == "ONNX int8":
            quantise(place)
        made[kind] = OnnxPipeline(place, threads=torch.get_num_threads())
    return made
