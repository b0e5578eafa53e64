"""The paper's tables beside ours: every system under one trainer, a verdict for each row (`clfa reproduce`).

The systems are the files in `clfa/systems`, the published figures are in `clfa/systems/published.json`.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig, RunConfig, build_config, override, read_yaml
from clfa.data.records import load_manifest
from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.evidence.evaluate import read_table
from clfa.evidence.floors import floor_predictions
from clfa.evidence.significance import run_interval
from clfa.evidence.verdict import COMPARED, verdict
from clfa.metrics import over_runs
from clfa.model.encoders import can_load
from clfa.report.reproduce_page import write_pages
from clfa.studies.sweep import is_first_process, run_all
from clfa.studies.tiny import tiny_changes, write_tiny_models, write_tiny_posts
from clfa.training.train import flatten, refuse_other_run

Say = Callable[[str], None]

DATASETS = {
    "mmsd": "data/mmsd",
    "mmsd2": "data/mmsd2",
    "mvsa": "data/mvsa_single",
    "mvsa_multiple": "data/mvsa_multiple",
}
SYSTEMS = {
    "resnet": "ResNet",
    "vit": "ViT",
    "bilstm": "BiLSTM",
    "bert": "BERT",
    "clip": "CLIP",
    "clip_cross_attention": "CLIP + cross attention",
    "mlp_cnn": "MLP+CNN",
    "hfm": "HFM",
    "dr_net": "D&R Net",
    "resbert": "ResBERT",
    "att_bert": "Att-BERT",
    "bert_vit": "BERT+ViT",
    "roberta_vit": "RoBERTa+ViT",
    "clfa": "CLFA",
    "clfa_roberta": "CLFA with RoBERTa",
    "in_cross_mgs": "InCrossMGs",
    "cmgcn": "CMGCN",
    "hke": "HKE",
    "multi_view_clip": "Multi-view CLIP",
}
# What stands in for inputs and parts of the original wherever the row is run; headers of the files say more
STAND_INS = {
    "mlp_cnn": ["ResNet-50 for the original CNN, random word vectors for trained ones"],
    "hfm": ["7 x 7 map of ResNet-50 for features of 14 x 14 crops, random word vectors for GloVe"],
    "dr_net": ["our reading, there is no public code", "random word vectors for GloVe"],
    "in_cross_mgs": ["our reading, there is no public code"],
    "cmgcn": ["patches for detected regions, cosine for WordNet, VADER for SenticNet"],
}
POSTS = {"mmsd": ("mmsd", 2409), "mmsd2": ("mmsd2", 2409), "mvsa": ("mvsa", None), "mvsa_multiple": ("mvsa", None)}


@dataclass
class Row:
    """One system of a table on its way to a verdict."""

    system: str
    runs: list[RunConfig] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    """What differs from the published system: other encoders, missing inputs. Such a row can only be "cannot tell"."""
    notes: list[str] = field(default_factory=list)
    """What else a reader must know."""
    problem: str | None = None
    """Why it was not run."""


def reproduce(
    table: str,
    dataset: str | None,
    out: Path,
    configs: str | None = None,
    systems: str = "all",
    seeds: int = 5,
    jobs: int = 1,
    tiny: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train and evaluate the systems of a table and set them beside the published figures.

    What cannot be had is told and never filled in: without pictures, an encoder or a column, a row is "not run", or run
    without that input and marked.

    Args:
        table: key of `DATASETS`.
        dataset: dataset directory.
        out: folder for run directories and tables; finished runs in it are kept, and so are the rows of
            other systems that an earlier call wrote for the same posts.
        configs: folder of YAML files that replace those of the package by the same names.
        systems: `all`, or names with commas.
        seeds: seeds 0 … seeds-1 of each system.
        jobs: runs at the same time.
        tiny: random tiny models on generated posts instead.
        say: where progress lines go.

    Returns:
        The content of `reproduce.json`: `{"rows": [{"system", "name", "seeds", "accuracy", "macro_f1", "intervals",
        "published", "verdict", "why", "stand_ins", "notes"}], "floors", …}`, scores in percent.

    Raises:
        UserError: no such dataset or system, a broken configuration.
    """
    if seeds < 1:
        raise UserError(f"seeds = {seeds}: at least 1")
    if configs and not Path(configs).is_dir():
        raise UserError(f"{configs} is not a folder: give one with YAML files named like those of the package")
    wanted = list(SYSTEMS) if systems == "all" else [name.strip() for name in systems.split(",")]
    for name in wanted:
        if name not in SYSTEMS:
            near = get_close_matches(name, SYSTEMS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"unknown system {name!r}; {hint}allowed: {', '.join(SYSTEMS)}")
    published = json.loads(files("clfa").joinpath("systems", "published.json").read_text(encoding="utf-8"))
    models: dict[str, str] = {}
    dataset = dataset or DATASETS[table]
    if tiny:
        dataset = str(out / "tiny" / "data")
        labels = ["not_sarcastic", "sarcastic"] if table.startswith("mmsd") else ["positive", "neutral", "negative"]
        if not Path(dataset, "dataset.json").is_file():
            write_tiny_posts(Path(dataset), labels)
        models = write_tiny_models(out / "tiny" / "models")
    manifest = load_manifest(dataset)
    other = [] if tiny else _other_posts(table, manifest)
    test = manifest["splits"]["test"]
    hashes = {split: described["sha256"] for split, described in manifest["splits"].items()}
    posts = {"path": dataset, "name": manifest["name"], "test": test["rows"], "sha256": hashes}
    earlier = _earlier_rows(out, table, posts)
    out.mkdir(parents=True, exist_ok=True)
    rows = [_prepare(name, dataset, out, configs, seeds, models, other) for name in wanted]
    plan = [run for row in rows if not row.problem for run in row.runs]
    failed = run_all(plan, "test", jobs, say)
    for row in rows:
        reasons = [failed[run.output] for run in row.runs if run.output in failed]
        row.problem = row.problem or (reasons[0].splitlines()[0] if reasons else None)
    if not is_first_process():
        return {"out": str(out), "rows": []}
    found = {row.system: _result(row, published[table], manifest["labels"], tiny) for row in rows}
    found = earlier | found
    result = {
        "table": table,
        "dataset": posts,
        "unit": "percent",
        "source": published[f"{table}_source"],
        "tiny": tiny,
        "rows": [found[name] for name in SYSTEMS if name in found],
        "floors": _floors(dataset, manifest["labels"]),
    }
    (out / "reproduce.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_pages(result, out)
    return result


def _other_posts(table: str, manifest: dict[str, Any]) -> list[str]:
    """How the posts differ from those of the table, as far as it can be seen."""
    reader, count = POSTS[table]
    test = manifest["splits"]["test"]["rows"]
    found = []
    if manifest.get("reader", manifest["name"]) != reader:
        found.append(f"posts imported as {manifest.get('reader')}, not as {reader}")
    if count and test != count:
        found.append(f"{test:,} test posts for {count:,}")
    return found


def _prepare(
    name: str, dataset: str, out: Path, configs: str | None, seeds: int, models: dict[str, str], other: list[str]
) -> Row:
    row = Row(name, stand_ins=[*STAND_INS.get(name, []), *other])
    shipped = read_yaml(str(files("clfa").joinpath("systems", f"{name}.yaml")))
    own = Path(configs) / f"{name}.yaml" if configs else None
    values = read_yaml(own) if own and own.is_file() else shipped
    if models:
        values = override(values, tiny_changes(values, models))
        row.stand_ins.append("random tiny models on generated posts")
    if own and own.is_file() and not models:
        row.stand_ins += _differences(values, shipped)
    if name not in STAND_INS and any(
        (m.get("words") or {"vectors": 1}).get("vectors") is None for m in values["model"]["modalities"].values()
    ):
        row.notes.append("word vectors begin at random")
    changes: dict[str, Any] = {"data.path": dataset}
    train = load_rows(DataConfig(dataset), "train")
    for number, (modality, described) in enumerate(values["model"]["modalities"].items()):
        column = described.get("column") or modality
        if column in train.column_names and train.data[column].null_count < len(train):
            continue
        if described["kind"] == "image" or number == 0:
            row.problem = f"{dataset} holds no {modality}s" if modality == "image" else f"{dataset} has no {column}"
            return row
        changes[f"model.modalities.{modality}"] = None
        row.stand_ins.append(f"no {modality}")
    values = override(values, changes)
    row.problem = _missing_model(values)
    for seed in range(seeds):
        run = build_config(RunConfig, override(values, {"seed": seed, "output": str(out / name / f"seed-{seed}")}))
        refuse_other_run(Path(run.output), run)
        row.runs.append(run)
    return row


def _differences(own: dict[str, Any], shipped: dict[str, Any]) -> list[str]:
    """What a configuration of the user's changes in that of the package, in words."""
    flat = [flatten(asdict(build_config(RunConfig, values))) for values in (own, shipped)]
    changed = [
        name
        for name in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(name) != flat[1].get(name) and name not in ("output", "data.path", "seed")
    ]
    encoders = [name for name in changed if name.endswith(".encoder") or name == "teacher"]
    found = [f"{flat[0].get(name) or 'none'} for {flat[1].get(name) or 'none'}" for name in encoders]
    rest = [name for name in changed if name not in encoders]
    more = f" and {len(rest) - 6} more" if len(rest) > 6 else ""
    return found + ([f"other {', '.join(rest[:6])}{more}"] if rest else [])


def _missing_model(values: dict[str, Any]) -> str | None:
    """The first encoder or teacher that is not here, before minutes are spent on finding out."""
    for modality in values["model"]["modalities"].values():
        if modality.get("encoder") and not can_load(modality["encoder"]):
            return f"the {modality['kind']} encoder {modality['encoder']} is not here"
    if values.get("loss", {}).get("alignment_weight", 1.0) > 0 and not can_load(values.get("teacher") or ""):
        return f"the teacher {values.get('teacher')} is not here"
    return None


def _result(row: Row, published: list[dict[str, Any]], labels: list[str], tiny: bool) -> dict[str, Any]:
    figures: dict[str, Any] = next((dict(found) for found in published if found["key"] == row.system), {})
    figures.pop("key", None)
    figures.pop("system", None)
    note = figures.pop("note", None)
    notes = row.notes + ([note] if note else [])
    unnamed = figures.pop("f1_of_unnamed_average", None)
    if unnamed:
        notes.append(f"published F1, of an average that the paper does not name: {unnamed:.2f}")
    result: dict[str, Any] = {"system": row.system, "name": SYSTEMS[row.system], "seeds": 0}
    if row.problem:
        result |= {"accuracy": None, "macro_f1": None, "intervals": {}, "published": figures, "verdict": "not run"}
        return result | {"why": row.problem, "stand_ins": row.stand_ins, "notes": notes}
    truth, predictions = _predictions(row.runs)
    scores = over_runs(truth, predictions, len(labels))
    several = len(predictions) > 1
    shown = [name for name in (*COMPARED, "weighted_f1") if name in scores]
    intervals = {
        name: {
            "sd": round(100 * scores[name]["sd"], 2),
            "one_run": [
                round(100 * min(1.0, max(0.0, bound)), 2)
                for bound in (run_interval(truth, predictions, len(labels), name) if several else scores[name]["ci95"])
            ],
        }
        for name in shown
    }
    graphs = _graphs(row.runs[0])
    notes += [f"word graph: {graph}" for graph in sorted(graphs)]
    if "window" in graphs and not tiny:
        row.stand_ins.append("neighbouring words for the dependency tree")
    told, why = verdict(
        {name: tuple(found["one_run"]) for name, found in intervals.items()}, figures, len(predictions), row.stand_ins
    )
    return {
        **result,
        "seeds": len(predictions),
        **{name: round(100 * scores[name]["mean"], 2) for name in shown},
        "intervals": intervals,
        "published": figures,
        "verdict": told,
        "why": why,
        "stand_ins": row.stand_ins,
        "notes": notes,
    }


def _earlier_rows(out: Path, table: str, posts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows that were written here before.

    Raises:
        UserError: they are of another table or of other posts.
    """
    path = out / "reproduce.json"
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    if (before.get("table"), before.get("dataset")) != (table, posts):
        raise UserError(f"{out} holds a table of other posts: choose another --out, or delete {path}")
    return {row["system"]: row for row in before["rows"]}


def _predictions(runs: list[RunConfig]) -> tuple[NDArray, NDArray]:
    tables = [read_table(Path(run.output) / "predictions" / "test.parquet") for run in runs]
    if any(table[0] != tables[0][0] for table in tables):
        raise UserError(f"{runs[0].output} and its other seeds were evaluated on different posts: delete the old ones")
    return tables[0][1], np.stack([table[2] for table in tables])


def _graphs(run: RunConfig) -> set[str]:
    """The word graphs that a run used; `best` has become one of them in its model.json."""
    described = json.loads((Path(run.output) / "model.json").read_text(encoding="utf-8"))
    return {m["graph"] for m in described["model"]["modalities"].values() if m.get("graph")}


def _floors(dataset: str, labels: list[str]) -> list[dict[str, Any]]:
    data = DataConfig(dataset)
    train, test = load_rows(data, "train"), load_rows(data, "test")
    truth = np.array(test["label"])
    return [
        {"system": name} | {metric: round(100 * found[metric]["mean"], 2) for metric in COMPARED if metric in found}
        for name, predicted in floor_predictions(train, test, len(labels)).items()
        for found in [over_runs(truth, predicted[None], len(labels))]
    ]
