"""A trained run as an ONNX file that needs neither PyTorch nor transformers, and the proof that it answers alike.

Nothing is left behind that `clfa.studies.parity` has not compared with the run: prepared inputs to the bit, logits to 1e-4,
and every label.
"""

import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from clfa.data.atomic import read_json, write_json
from clfa.data.seal import seal
from clfa.data.training_cues import CUES
from clfa.errors import UserError
from clfa.evidence.results import Export, Int8, write_result
from clfa.evidence.significance import paired_bootstrap
from clfa.metrics import Score
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.serving.onnx import ABOUT, MODEL, SIZES, OnnxPipeline
from clfa.studies.onnx_graph import OPSET, quiet, shared_inputs, write_graph
from clfa.studies.parity import compare, posts_to_compare

INTEGER = ["MatMul", "Gemm", "Gather"]
"""Operators whose weights become 8 bit integers."""
METRICS = ("accuracy", "macro_f1")

log = logging.getLogger(__name__)


def export(run: str | Path, output: str | Path | None = None, int8: bool = False) -> Export:
    """Write a folder for `clfa.serving.onnx.OnnxPipeline`: `model.onnx`, `model.json`, tokenizers, `manifest.json`; and
    `cues.json`, if the run has it.

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
    posts, posts_of = posts_to_compare(Run(run), pipeline.config)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        log.info("%s: writing the graph, which takes a minute", run)
        write_export(pipeline, posts, partial)
        difference = compare(pipeline, OnnxPipeline(partial), posts)
        cost = _to_int8(Run(run), partial) if int8 else None
        size = sum(path.stat().st_size for path in partial.rglob("*")) / 1e6
        result = Export(str(target), round(size, 1), len(posts), posts_of, difference, cost)
        write_result(partial / "export.json", result)
        _seal(partial)
        if Run(run).cues_file.is_file():  # not sealed: whoever wants to pass the model on without them deletes the file
            shutil.copyfile(Run(run).cues_file, partial / CUES)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def write_export(pipeline: Pipeline, posts: list[dict[str, Any]], folder: Path) -> None:
    """The files of an export, not compared with anything; `posts` are examples of what it will read."""
    reads = shared_inputs(pipeline)
    _write_readers(pipeline, reads, folder)
    write_json(folder / ABOUT, pipeline.model.described() | {"reads": reads})
    write_graph(pipeline, reads, posts, folder / MODEL)
    _seal(folder)


def quantise(folder: Path) -> None:
    """Weights of linear maps and embeddings in an export become 8 bit integers; its posts pass one by one from now on."""
    _quantise(folder / MODEL)
    write_json(folder / ABOUT, (read_json(folder / ABOUT) or {}) | {"int8": True})
    _seal(folder)


def _write_readers(pipeline: Pipeline, reads: dict[str, str], folder: Path) -> None:
    for name in dict.fromkeys(reads.values()):
        (folder / name).mkdir()
        modality, preparer = pipeline.config.modalities[name], pipeline.preparers[name]
        if modality.kind == "text":
            _write_tokenizer(preparer, modality.max_length, folder / name / "tokenizer.json")
        else:
            write_json(folder / name / "image.json", image_settings(preparer, name))


def _write_tokenizer(preparer: Any, max_length: int, path: Path) -> None:
    """The tokenizer, with how it truncates and pads."""
    if not preparer.is_fast:
        raise UserError("the tokenizer is none of the library `tokenizers`: such a run cannot be exported")
    tokenizer = Tokenizer.from_str(preparer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(max_length, direction=preparer.truncation_side)
    tokenizer.enable_padding(
        direction=preparer.padding_side,
        pad_id=preparer.pad_token_id,
        pad_type_id=preparer.pad_token_type_id,
        pad_token=preparer.pad_token,
    )
    tokenizer.save(str(path))


def image_settings(processor: Any, name: str) -> dict[str, Any]:
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


def _seal(folder: Path) -> None:
    packages = ("clfa", "torch", "onnx", "onnxruntime", "tokenizers", "pillow", "numpy")
    made_with = {"opset": OPSET, **{name: version(name) for name in packages}}
    seal(folder, [path for path in folder.rglob("*") if path.is_file()], made_with)


def _to_int8(run: Run, folder: Path) -> Int8:
    """Quantise the weights of `model.onnx`, and measure on validation what that changes."""
    rows = run.open_split(run.config().data, "validation", "export")
    before = OnnxPipeline(folder)
    first = before.decide(before.logits(rows, "predicting with floats"))
    quantise(folder)
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
    with quiet():
        quantize_dynamic(model, path, op_types_to_quantize=INTEGER, weight_type=QuantType.QInt8, per_channel=True)
