"""A trained run as an ONNX file that needs neither PyTorch nor transformers, and the proof that it answers alike.

Nothing is left behind that was not compared with the run on `POSTS` posts: prepared inputs to the bit, logits to `CLOSE`,
and every label.
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from clfa.config import ModelConfig
from clfa.data.atomic import write_json
from clfa.data.cells import CELLS, Post
from clfa.data.progress import progress
from clfa.data.rows import load_split
from clfa.data.seal import seal
from clfa.errors import UserError
from clfa.evidence.results import Export, Int8, write_result
from clfa.evidence.significance import paired_bootstrap
from clfa.metrics import Score
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Classifier
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.serving.onnx import ABOUT, KNOWLEDGE, MODEL, SIZES, OnnxPipeline

OPSET = 20
CLOSE = 1e-4
"""Largest difference of a logit."""
POSTS, LARGEST_BATCH = 500, 33
"""That an export is compared on, in batches of each size from 1."""
ONE_FILE = 1_800_000_000
"""Bytes of weights from which on they are in a file of their own: a file of the format holds two gigabytes."""
INTEGER = ["MatMul", "Gemm", "Gather"]
"""Operators whose weights become 8 bit integers; convolutions would be slower."""
METRICS = ("accuracy", "macro_f1")

log = logging.getLogger(__name__)


def export(run: str | Path, output: str | Path | None = None, int8: bool = False) -> Export:
    """Write a folder for `clfa.serving.onnx.OnnxPipeline`: `model.onnx`, `model.json`, tokenizers, `manifest.json`.

    Args:
        run: run directory, of a fusion, of a probe or of what `clfa fit` chose.
        output: new folder; `RUN/onnx` by default.
        int8: whether the weights of linear maps and embeddings become 8 bit integers (a third of the size, and faster).
            What that costs is measured on validation.

    Raises:
        UserError: the output exists; a tokenizer or image processor that does something of its own; what was written does
            not answer as the run does.
    """
    target = Path(output or Path(run) / "onnx")
    if target.exists():
        raise UserError(f"{target} exists: choose another --out, or delete it")
    pipeline = Pipeline.load(run)
    posts, posts_of = _posts(Run(run), pipeline.config)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        reads = _inputs(pipeline)
        _write_readers(pipeline, reads, partial)
        _describe(pipeline, reads, partial)
        log.info("%s: writing the graph, which takes a minute", run)
        _write_graph(pipeline, reads, posts, partial / MODEL)
        _seal(partial)
        compared, difference = _compare(pipeline, OnnxPipeline(partial), posts)
        cost = _to_int8(Run(run), pipeline.config, partial) if int8 else None
        size = sum(path.stat().st_size for path in partial.rglob("*")) / 1e6
        result = Export(str(target), round(size, 1), compared, posts_of, difference, cost)
        write_result(partial / "export.json", result)
        _seal(partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _posts(run: Run, config: ModelConfig) -> tuple[list[dict[str, Any]], str]:
    """`POSTS` posts of validation and train, and hard ones; some of them without one or the other column."""
    columns = config.columns()
    own: list[dict[str, Any]] = []
    folder = Path(run.config().data.path) if run.config_file.is_file() else None
    if folder is not None and (folder / "dataset.json").is_file():
        for split in ("validation", "train"):  # never test
            rows = load_split(folder, split)
            own += [{name: row.get(name) for name in columns} for row in islice(rows, POSTS - len(own))]
    posts = list(islice(cycle([*_hard_posts(), *own]), POSTS))
    for place, post in enumerate(posts):
        absent = place % (3 * len(columns))  # a third of the posts lacks a column, each of them in turn
        if absent < len(columns) and len(columns) > 1:
            posts[place] = post | {columns[absent]: None}
    filled = [{"text": "", **post} | {"text": post.get("text") or ""} for post in posts]
    return filled, str(folder) if own else "generated"


def _hard_posts() -> Iterator[dict[str, Any]]:
    """Texts and images of the kinds on which preparers differ."""
    texts = [
        "",
        "[SEP] [CLS] </s> <|endoftext|>",
        "word " * 300,
        "喵 ☃ 👩‍👩‍👧 e\u0301",
        "#one # two",
        "A\tB\n C",
        "ﬁ İ ß",
    ]
    sizes = [(1, 1), (640, 7), (7, 640), (224, 224), (257, 300), (225, 223), (33, 500)]
    generator = np.random.default_rng(0)
    for text, (width, height) in zip(texts, sizes):
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        yield {"text": text, "image": CELLS["image"].clean(Image.fromarray(pixels), "raw")}


def _inputs(pipeline: Pipeline) -> dict[str, str]:
    """Fused modality -> the input that it reads, by the name of the first modality that reads the same in the same way."""
    config, first = pipeline.config, dict[tuple, str]()
    return {
        name: first.setdefault((id(pipeline.preparers[name]), config.column(name), one.part, one.max_length), name)
        for name, one in config.modalities.items()
        if one.fused
    }


def _write_readers(pipeline: Pipeline, reads: dict[str, str], folder: Path) -> None:
    for name in dict.fromkeys(reads.values()):
        (folder / name).mkdir()
        modality, preparer = pipeline.config.modalities[name], pipeline.preparers[name]
        if modality.kind == "text":
            _write_tokenizer(preparer, modality.max_length, folder / name / "tokenizer.json")
        else:
            write_json(folder / name / "image.json", _image_settings(preparer, name))


def _write_tokenizer(preparer: Any, max_length: int, path: Path) -> None:
    """The tokenizer, with how it truncates and pads."""
    if not preparer.is_fast:
        raise UserError("the tokenizer is none of the library `tokenizers`: such a run cannot be exported")
    tokenizer = json.loads(preparer.backend_tokenizer.to_str())
    tokenizer["truncation"] = {
        "direction": preparer.truncation_side.title(),
        "max_length": max_length,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    tokenizer["padding"] = {
        "strategy": "BatchLongest",
        "direction": preparer.padding_side.title(),
        "pad_to_multiple_of": None,
        "pad_id": preparer.pad_token_id,
        "pad_type_id": preparer.pad_token_type_id,
        "pad_token": preparer.pad_token,
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _image_settings(processor: Any, name: str) -> dict[str, Any]:
    """What an image processor does, as `ImageReader` reads it."""
    given = processor.to_dict()
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_offset", "include_top")
    settings: dict[str, Any] = {step: bool(given.get(step)) for step in steps}
    settings |= {key: given.get(key) for key in ("rescale_factor", "image_mean", "image_std")}
    for key in ("size", "crop_size"):
        settings[key] = {side: value for side, value in dict(given.get(key) or {}).items() if value is not None}
    settings["resample"] = 2 if given.get("resample") is None else int(given["resample"])  # bilinear
    if (settings["do_resize"] and set(settings["size"]) not in SIZES) or given.get("do_pad"):
        raise UserError(
            f"{name}: the image processor {type(processor).__name__} resizes to {settings['size']}, or pads: such a run "
            "cannot be exported"
        )
    return settings


def _describe(pipeline: Pipeline, reads: dict[str, str], folder: Path) -> None:
    model = pipeline.model
    described = {
        "labels": model.class_names,
        "text": model.text_cleaning,
        "offsets": model.offsets,
        "model": asdict(model.config),
        "reads": reads,
        "inputs": list(dict.fromkeys(reads.values())),
    }
    write_json(folder / ABOUT, described)


class _Graph(nn.Module):
    """The classifier as a function of named tensors."""

    def __init__(self, model: Classifier, reads: dict[str, str]):
        super().__init__()
        self.model, self.reads = model, reads

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits, and the embedding of each modality that is fused."""
        modalities = {}
        for name, read in self.reads.items():
            own = {key.removeprefix(f"{read}."): value for key, value in inputs.items() if key.startswith(f"{read}.")}
            encoded = {key: own[key] for key in own.keys() - {"present", *KNOWLEDGE}}
            known = {key: inputs.get(f"{name}.{key}") for key in KNOWLEDGE}
            modalities[name] = Inputs(own["present"], encoded, **known)
        output = self.model(Batch(modalities))
        return (output.logits, *(output.embeds[name] for name in self.reads))


def _given(pipeline: Pipeline, reads: dict[str, str], rows: Sequence[Post]) -> dict[str, Tensor]:
    """The inputs of the graph, as the run's own preparers make them."""
    batch, given = pipeline.collate(rows), dict[str, Tensor]()
    for name in dict.fromkeys(reads.values()):
        inputs = batch.modalities[name]
        given[f"{name}.present"] = inputs.present
        given |= {f"{name}.{key}": value for key, value in inputs.inputs.items()}
    for name in reads:
        known = {key: getattr(batch.modalities[name], key) for key in KNOWLEDGE}
        given |= {f"{name}.{key}": value for key, value in known.items() if value is not None}
    return given


def _write_graph(pipeline: Pipeline, reads: dict[str, str], posts: list[dict[str, Any]], path: Path) -> None:
    """`model.onnx` with any number of posts, and texts of any length."""
    model = pipeline.model.cpu().eval()
    pipeline.device = torch.device("cpu")
    longest = sorted(posts, key=lambda post: sum(len(cell) for cell in post.values() if isinstance(cell, str)))[-5:]
    given = _given(pipeline, reads, longest)
    free = torch.export.Dim.DYNAMIC
    shapes = {key: dict.fromkeys(range(1 if value.ndim == 4 else value.ndim), free) for key, value in given.items()}
    names = list(given)
    graph = _Graph(model, reads).eval()
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            kwargs={"inputs": given},
            dynamic_shapes={"inputs": shapes},
            input_names=names,
            output_names=["logits", *reads],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.clfa.lstm.default: _lstm},
        )
        assert program is not None
        weights = sum(parameter.nbytes for parameter in model.state_dict().values())
        program.save(path, external_data=weights > ONE_FILE)


def _lstm(states: Any, lengths: Any, of_input: Any, of_state: Any, biases: Any, hidden: Any, cell: Any) -> Any:
    """`clfa.fusion.graphs.run_lstm` as the operator of ONNX, which reads each text to its own end."""
    from onnxscript import opset20

    op: Any = opset20
    steps = op.Transpose(states, perm=[1, 0, 2])
    lengths = op.Cast(lengths, to=6)  # int32
    sizes = {"direction": "bidirectional", "hidden_size": of_state.shape[2]}
    found, _, _ = op.LSTM(steps, of_input, of_state, biases, lengths, hidden, cell, **sizes)
    return op.Reshape(op.Transpose(found, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def _seal(folder: Path) -> None:
    packages = ("clfa", "torch", "onnx", "onnxruntime", "tokenizers", "pillow", "numpy")
    made_with = {"opset": OPSET, **{name: version(name) for name in packages}}
    seal(folder, [path for path in folder.rglob("*") if path.is_file()], made_with)


def _compare(pipeline: Pipeline, exported: OnnxPipeline, posts: list[dict[str, Any]]) -> tuple[int, float]:
    """Number of posts compared, and the largest difference of a logit.

    Raises:
        UserError: inputs, logits or labels differ.
    """
    sizes, places, worst = cycle(range(1, LARGEST_BATCH + 1)), iter(posts), 0.0
    with progress("comparing with the run", len(posts)) as bar:
        while batch := list(islice(places, next(sizes))):
            _same_inputs(_given(pipeline, exported.reads, batch), exported.inputs(batch))
            expected, found = pipeline.output(batch).logits.float().numpy(), exported.output(batch)
            difference = float(np.abs(expected - found).max())
            if not difference <= CLOSE or (pipeline.decide(expected) != exported.decide(found)).any():
                raise UserError(
                    f"the exported model differs from the run by {difference:.2g} in a logit of a batch of {len(batch)} "
                    f"posts, or in a label (allowed is {CLOSE}): nothing was written; please report it with your versions "
                    "of torch, onnx and onnxruntime"
                )
            worst = max(worst, difference)
            bar.add(len(batch))
    return len(posts), worst


def _same_inputs(expected: dict[str, Tensor], found: dict[str, NDArray]) -> None:
    for name, value in expected.items():
        if value.dtype != torch.from_numpy(found[name]).dtype or not np.array_equal(value.numpy(), found[name]):
            raise UserError(
                f"{name} is not prepared as in training by tokenizers, Pillow and NumPy: the tokenizer or image processor "
                "does something of its own; such a run cannot be exported"
            )


def _to_int8(run: Run, config: ModelConfig, folder: Path) -> Int8:
    """Quantise the weights of `model.onnx`, and measure on validation what that changes."""
    rows = run.open_split(run.config().data, "validation", "export")
    before = OnnxPipeline(folder)
    first = before.decide(before.logits(rows, "predicting with floats"))
    _quantise(folder / MODEL)
    _seal(folder)
    after = OnnxPipeline(folder)
    second = after.decide(after.logits(rows, "predicting with integers"))
    differences = {}
    for metric in METRICS:
        gap = paired_bootstrap(rows.labels, first[None], second[None], len(before.class_names), metric)
        differences[metric] = Score(gap.value, *gap.ci95)
    return Int8(len(rows), int((first != second).sum()), differences)


def _quantise(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # shapes that the exporter noted, which the quantiser's own contradict
    with _quiet():
        quantize_dynamic(model, path, op_types_to_quantize=INTEGER, weight_type=QuantType.QInt8, per_channel=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
