"""What a run is worth, and what it rests on."""

import logging
from pathlib import Path
from typing import Any, Literal

import clfa
from clfa.commands.options import IdColumn, ImageColumn, RunDir, TextColumn
from clfa.errors import UserError

log = logging.getLogger(__name__)


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
