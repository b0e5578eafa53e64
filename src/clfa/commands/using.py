"""A run answers."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import clfa
from clfa.commands.options import ImageColumn, RunDir, TextColumn, further_columns
from clfa.config import Precision
from clfa.errors import UserError

log = logging.getLogger(__name__)


def predict(
    run: RunDir,
    *,
    text: str | None = None,
    image: str | None = None,
    input: str | None = None,
    output: str | None = None,
    image_dir: str | None = None,
    on_bad: Literal["fail", "skip", "mask"] = "fail",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    knowledge_column: str = "knowledge",
    column: Sequence[str] = (),
    engine: Literal["plain", "ray"] = "plain",
    precision: Precision = "fp32",
) -> object:
    """Predict one post, or each post of a file, or of all files of a folder or pattern.

    Args:
        text: Text of one post.
        image: Image of one post.
        input: CSV, TSV, JSONL or Parquet file of posts; a folder of such files, or a pattern in quotes; here or in object
            storage (s3://bucket/posts.csv).
        output: File to write, one row for each input row; its ending gives the format. For a folder or a pattern the folder
            to write to, a file of the same name for each; those that are there are done.
        image_dir: Folder that image paths are relative to; by default the folder of the file.
        on_bad: Images that are named but missing or unreadable: `fail` before anything is predicted, `skip` those posts
            (empty prediction), or `mask` the image and predict from the text alone.
        image_column: Column of the image's path; empty cells mean that the post has no image.
        knowledge_column: Column of further text.
        column: NAME=COLUMN: where a further column that the run reads is in the file; by default under its own name.
        engine: `ray` spreads files over the cluster of RAY_ADDRESS, or over the cores of this machine where there is none.
        precision: `bf16` changes probabilities a little, `fp32_by_bf16` does not; both are faster than `fp32` on some
            hardware, and slower on other (`clfa bench --suite infer`).

    Examples:
        clfa predict runs/posts --text "what a lovely day" --image storm.jpg
        clfa predict runs/posts --input posts.csv --output predicted.csv --on-bad mask
        clfa predict runs/posts --input 'days/2026-*.parquet' --output predicted --precision bf16
        clfa predict runs/posts --input 's3://bucket/days/*.parquet' --output s3://bucket/predicted --engine ray
    """
    log.info("%s: loading the model", run)
    if (text is None) == (input is None) or (input is None) != (output is None):
        raise UserError("give --text and --image for one post, or --input and --output for a file of posts")
    if text is not None and column:
        raise UserError("--column names columns of --input; give a post with further columns to clfa.Predictor")
    if input is not None and output is not None:
        columns = {"text": text_column, "image": image_column, "knowledge": knowledge_column, **further_columns(column)}
        directory = Path(image_dir) if image_dir else None
        from clfa.data.places import place
        from clfa.serving.files import names_several, predict_file, predict_files

        if names_several(input):
            return predict_files(run, input, place(output), columns, directory, on_bad, engine, precision)
        return predict_file(run, place(input), place(output), columns, directory, on_bad, engine, precision)
    return vars(clfa.Predictor(run, precision=precision).one({"text": text, "image": image}))


def export(run: RunDir, *, format: Literal["onnx"] = "onnx", out: str | None = None, int8: bool = False) -> object:
    """Write a trained run as a folder that answers without PyTorch and transformers: `pip install 'clfa[onnx]'` is enough.

    It is compared with the run on 500 posts before it is left: labels, prepared inputs and logits, in batches of each size
    from 1 to 33, posts without image and posts without text among them.

    Args:
        format: Of the model's file.
        out: Folder to write; RUN/onnx by default.
        int8: Store linear maps and embeddings as 8 bit integers: smaller and faster. What that costs is measured on
            validation, and said.

    Examples:
        clfa export runs/posts --format onnx
        clfa predict runs/posts/onnx --text "what a lovely day" --image storm.jpg
        clfa export runs/posts --format onnx --int8 --out exported
    """
    log.info("%s: loading the model", run)
    from clfa.studies.export import export as write_onnx

    return {"onnx": write_onnx}[format](run, out, int8)


def serve(
    run: RunDir,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str | None = None,
    backend: Literal["torch", "onnx"] | None = None,
    precision: Precision = "fp32",
    label_studio: bool = False,
) -> object:
    """Answer posts over HTTP until SIGTERM or Ctrl-C; then what was asked before is answered, and the process ends with 0.

    POST /predict takes JSON {"posts": [{"text": …, "image": base64}]}, /predict/one a single post, /predict/form a form with
    the image as a file; /v2/… is the Open Inference Protocol. /openapi.json describes them, /health/ready, /metrics and
    /info are for whoever runs it. Posts are not stored, not logged, and nothing is fetched.

    Args:
        host: Address to listen on. Any other than this machine's own needs keys.
        port: Port to listen on.
        keys: File with a key a line, one of which each request must have (X-API-Key, or Authorization: Bearer).
        backend: `onnx` for what `clfa export` wrote; by default what the folder holds.
        precision: As of `clfa predict`.
        label_studio: Also be a machine-learning backend of Label Studio, at /label-studio.

    Examples:
        clfa serve runs/posts
        clfa serve runs/posts --precision bf16
        clfa serve runs/posts/onnx --host 0.0.0.0 --port 80 --keys keys.txt
    """
    from clfa.serving.batching import BATCH
    from clfa.serving.predictor import Predictor
    from clfa.serving.service import serve as answer

    allowed = [line.strip() for line in Path(keys).read_text(encoding="utf-8").splitlines()] if keys else []
    answer(
        run,
        host,
        port,
        [key for key in allowed if key],
        lambda: Predictor(run, BATCH, backend, precision),
        label_studio,
    )
    return {}
