"""The paper's tables beside ours: every system under one trainer, a verdict for each row (`clfa reproduce`).

The systems are the files in `clfa/systems`, the published figures are in `clfa/systems/published.json`.
"""

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from clfa.config import DataConfig, RunConfig, build_config, differing, override, read_yaml
from clfa.data.atomic import read_json
from clfa.data.cache import Engine
from clfa.data.records import load_manifest
from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.evidence.floors import floor_scores
from clfa.evidence.results import Posts, ReproducedRow, Reproduction, Scores, read_result, write_result
from clfa.evidence.significance import PUBLISHED_METRICS, published_verdict, run_interval
from clfa.evidence.systems import pool_runs
from clfa.metrics import METRICS, over_runs
from clfa.model.encoders import can_load
from clfa.report.page import write_reproduction
from clfa.runs import Run
from clfa.studies.sweep import is_first_process, run_all
from clfa.studies.tiny import tiny_changes, write_tiny_models, write_tiny_posts

SYSTEM_FILES = Path(__file__).parents[1] / "systems"
# table -> its data set if none is named, the reader of its posts, and how many test posts the paper counts
TABLES: dict[str, tuple[str, str, int | None]] = {
    "mmsd": ("data/mmsd", "mmsd", 2409),
    "mmsd2": ("data/mmsd2", "mmsd2", 2409),
    "mvsa": ("data/mvsa_single", "mvsa", None),
    "mvsa_multiple": ("data/mvsa_multiple", "mvsa", None),
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


@dataclass
class Plan:
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
    engine: Engine = "plain",
) -> Reproduction:
    """Train and evaluate the systems of a table; write `reproduce.json` and `table.{md,csv,tex,html}`.

    What cannot be had is named and never filled in: without images, an encoder or a column, a row is "not run", or run
    without that input and marked.

    Args:
        table: key of `TABLES`; the others are those of `clfa reproduce`.

    Returns:
        The table; without rows in all but the first process of torchrun.

    Raises:
        UserError: no such dataset or system, a broken configuration.
    """
    wanted = _wanted(systems, seeds, configs)
    published = read_json(SYSTEM_FILES / "published.json")
    models: dict[str, str] = {}
    dataset = dataset or TABLES[table][0]
    if tiny:
        dataset, models = _tiny_posts(table, out / "tiny" / "data"), write_tiny_models(out / "tiny" / "models")
    manifest = load_manifest(dataset)
    hashes = {split: described["sha256"] for split, described in manifest["splits"].items()}
    posts = Posts(dataset, manifest["name"], manifest["splits"]["test"]["rows"], hashes)
    earlier = _earlier_rows(out, table, posts)
    other = [] if tiny else _other_posts(table, manifest)
    out.mkdir(parents=True, exist_ok=True)
    plans = [_prepare(name, dataset, out, configs, seeds, models, other) for name in wanted]
    failed = run_all([run for plan in plans if not plan.problem for run in plan.runs], "test", jobs, engine)
    for plan in plans:
        errors = [failed[run.output].splitlines()[0] for run in plan.runs if run.output in failed]
        plan.problem = plan.problem or next(iter(errors), None)
    result = Reproduction(table, posts, published[f"{table}_source"], tiny, {}, [])
    if not is_first_process():
        return result
    made = earlier | {plan.system: _row(plan, published[table], tiny) for plan in plans}
    train, test = (load_rows(DataConfig(dataset), split) for split in ("train", "test"))
    floors = floor_scores(train, test, len(manifest["labels"]))
    result = replace(result, floors=floors, rows=[made[name] for name in SYSTEMS if name in made])
    write_result(out / "reproduce.json", result)
    write_reproduction(result, out)
    return result


def _tiny_posts(table: str, folder: Path) -> str:
    """Generated posts with the classes of a table."""
    class_names = ["not_sarcastic", "sarcastic"] if table.startswith("mmsd") else ["positive", "neutral", "negative"]
    if not (folder / "dataset.json").is_file():
        write_tiny_posts(folder, class_names)
    return str(folder)


def _wanted(systems: str, seeds: int, configs: str | None) -> list[str]:
    """Names of the systems to run; an option that cannot be is a UserError."""
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
    return wanted


def _other_posts(table: str, manifest: dict[str, Any]) -> list[str]:
    """How the posts differ from those of the table, as far as it can be seen."""
    _, reader, count = TABLES[table]
    test = manifest["splits"]["test"]["rows"]
    stand_ins = []
    if manifest.get("reader", manifest["name"]) != reader:
        stand_ins.append(f"posts imported as {manifest.get('reader')}, not as {reader}")
    if count and test != count:
        stand_ins.append(f"{test:,} test posts for {count:,}")
    return stand_ins


def _prepare(
    name: str, dataset: str, out: Path, configs: str | None, seeds: int, models: dict[str, str], other: list[str]
) -> Plan:
    plan = Plan(name, stand_ins=[*STAND_INS.get(name, []), *other])
    shipped = read_yaml(SYSTEM_FILES / f"{name}.yaml")
    own = Path(configs, f"{name}.yaml") if configs else None
    values = read_yaml(own) if own and own.is_file() else shipped
    if models:
        values = override(values, tiny_changes(values, models))
        plan.stand_ins.append("random tiny models on generated posts")
    config = build_config(RunConfig, values)
    if not models:
        plan.stand_ins += _differences(config, build_config(RunConfig, shipped))
    modalities = config.model.modalities
    if name not in STAND_INS and any(m.words and m.words.vectors is None for m in modalities.values()):
        plan.notes.append("word vectors begin at random")
    train = load_rows(DataConfig(dataset), "train")
    usable = {}
    for number, (modality, described) in enumerate(modalities.items()):
        column = config.model.column(modality)
        if train.has(column):
            usable[modality] = described
        elif number == 0 or not described.shares:  # what has an encoder of its own is no extra
            plan.problem = f"{dataset} holds no {column}s"
            return plan
        else:
            plan.stand_ins.append(f"no {modality}")
    config = replace(config, data=replace(config.data, path=dataset), model=replace(config.model, modalities=usable))
    plan.problem = _missing_model(config)
    for seed in range(seeds):
        run = replace(config, seed=seed, output=str(out / name / f"seed-{seed}"))
        Run(run.output).refuse_other(run)
        plan.runs.append(run)
    return plan


def _differences(own: RunConfig, shipped: RunConfig) -> list[str]:
    """What a configuration of the user's changes in that of the package, in words."""
    changed = differing(own, shipped, ignored=("output", "data.path", "seed"))
    encoders = [name for name in changed if name.endswith(".encoder") or name == "teacher"]
    rest = [name for name in changed if name not in encoders]
    more = f" and {len(rest) - 6} more" if len(rest) > 6 else ""
    in_words = [f"{changed[name][0] or 'none'} for {changed[name][1] or 'none'}" for name in encoders]
    return in_words + ([f"other {', '.join(rest[:6])}{more}"] if rest else [])


def _missing_model(config: RunConfig) -> str | None:
    """The first encoder or teacher that is not here, before minutes are spent on finding out."""
    for modality in config.model.modalities.values():
        if modality.encoder and not can_load(modality.encoder):
            return f"the {modality.kind} encoder {modality.encoder} is not here"
    if config.loss.alignment_weight != 0 and not can_load(config.teacher or ""):
        return f"the teacher {config.teacher} is not here"
    return None


def _row(plan: Plan, published: list[dict[str, Any]], tiny: bool) -> ReproducedRow:
    printed: dict[str, Any] = next((row for row in published if row["key"] == plan.system), {})
    figures = {name: value / 100 for name, value in printed.items() if name in METRICS}
    notes = plan.notes + ([printed["note"]] if "note" in printed else [])
    if "f1_of_unnamed_average" in printed:
        unnamed = printed["f1_of_unnamed_average"]
        notes.append(f"published F1, of an average that the paper does not name: {unnamed:.2f}")
    row = ReproducedRow(plan.system, SYSTEMS[plan.system], 0, {}, figures, "not run", "", plan.stand_ins, notes)
    if plan.problem:
        return replace(row, why=plan.problem)
    modalities = read_json(Run(plan.runs[0].output).model_file)["model"][
        "modalities"
    ]  # here `best` is one of the others
    graphs = {modality["graph"] for modality in modalities.values() if modality.get("graph")}
    notes += [f"word graph: {graph}" for graph in sorted(graphs)]
    if "window" in graphs and not tiny:
        plan.stand_ins.append("neighbouring words for the dependency tree")
    runs, scores = _scores(plan)
    verdict, why = published_verdict(scores, figures, runs, plan.stand_ins)
    return replace(row, runs=runs, metrics=scores, verdict=verdict, why=why)


def _scores(plan: Plan) -> tuple[int, Scores]:
    """Number of runs, and our scores with intervals for the true score of one run."""
    pooled = pool_runs(plan.system, [Run(run.output) for run in plan.runs], "test")
    of = (pooled.labels, pooled.predictions, len(pooled.class_names))
    scores = {name: score for name, score in over_runs(*of).items() if name in (*PUBLISHED_METRICS, "weighted_f1")}
    if len(pooled.predictions) > 1:
        for name, score in scores.items():
            low, high = (min(1.0, max(0.0, bound)) for bound in run_interval(*of, name))
            scores[name] = replace(score, low=low, high=high)
    return len(pooled.predictions), scores


def _earlier_rows(out: Path, table: str, posts: Posts) -> dict[str, ReproducedRow]:
    """Rows that were written here before; those of another table or of other posts are a UserError."""
    path = out / "reproduce.json"
    if not path.is_file():
        return {}
    before = read_result(Reproduction, path)
    if (before.table, before.dataset) != (table, posts):
        raise UserError(f"{out} holds a table of other posts: choose another --out, or delete {path}")
    return {row.system: row for row in before.rows}
