"""Results as self-contained HTML pages, tables and model cards. Pages load nothing from anywhere and escape all texts."""

import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined

from clfa.data.atomic import read_json, write_text
from clfa.errors import UserError
from clfa.evidence.results import (
    Audit,
    Comparison,
    Demo,
    Evaluation,
    Fit,
    Probe,
    Reproduction,
    Sweep,
    from_dict,
    read_result,
)
from clfa.metrics import METRICS
from clfa.report import figures, tables
from clfa.report.formats import latex, latex_text, markdown, write_csv
from clfa.report.tables import Rows
from clfa.runs import Run

LANGUAGES = 8
SWEEP_METRICS = ("accuracy", "macro_f1", "weighted_f1")

log = logging.getLogger(__name__)


def environment(loader: BaseLoader | None = None, autoescape: bool = True) -> Environment:
    """Templates, by default those of this package, with the filters that write scores, names and counts."""
    result = Environment(
        loader=loader or PackageLoader("clfa", "report/templates"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    result.filters |= {
        "score": tables.cell,
        "name": tables.name_of,
        "titles": tables.titles,
        "tried": tables.tried_rows,
        "metric_title": lambda metric: METRICS[metric].title,
        "shown": tables.shown,
        "title_unit": lambda metric: METRICS[metric].title + (", %" if METRICS[metric].unit == "%" else ""),
        "percent": lambda fraction: f"{100 * fraction:.1f}",
        "count": lambda number: f"{number:,.0f}",
        "share": lambda number, of: f"{100 * number / max(1, sum(of)):.1f}",
        "image": figures.image_source,
        "plain": plain,
    }
    return result


def plain(value: Any) -> str:
    """Text of others for Markdown: nothing in it is markup, and it stays on its line."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


# ---- one run


def write_evaluation(run: Run, evaluation: Evaluation) -> Path:
    """Write `RUN/report-<split>.html`, with the results of a probe if there is one, and the model card; give the path."""
    probe = _probe_of(run)
    illustrations = evaluation.illustrations
    drawn = {
        "curves": figures.curves(run.log(), run.metrics()["training"]["best_epoch"])
        if run.log_file.is_file()
        else None,
        "confusion": figures.confusion(evaluation.confusion, evaluation.class_names),
        "reliability": figures.reliability(evaluation.reliability),
        "heatmap": figures.heatmap(illustrations.heatmap) if illustrations and illustrations.heatmap else None,
    }
    if probe:
        drawn["missing"] = figures.missing(probe)
        for side in ("image", "text") if probe.corruptions else ():
            drawn[f"{side}_drops"] = figures.drops(getattr(probe.corruptions, side))
    path = run.report_file(evaluation.split)
    _write(
        "run.html.j2",
        path,
        title=_name_of(run),
        subtitle=f"{run}, split {evaluation.split}",
        result=evaluation,
        probe=probe,
        fit=read_result(Fit, run.leaderboard_file) if run.leaderboard_file.is_file() else None,
        openings=run.openings(run.config().data.path),
        figures=_sources(drawn),
    )
    write_card(run)
    return path


def write_card(run: Run) -> None:
    """Write the model card `RUN/README.md` from what the run, its evaluations, a probe and an audit of its data wrote."""
    config, data = run.config(), run.manifest()
    dataset, model = Path(config.data.path), read_json(run.model_file)
    data_name = (data or {}).get("name", dataset.name)
    text = (
        environment(autoescape=False)
        .get_template("card.md.j2")
        .render(
            name=_name_of(run),
            metadata=_metadata(run, data_name),
            config=config,
            data=data,
            data_name=data_name,
            audit=_audit_of(dataset, data),
            training=run.metrics()["training"],
            results=evaluations(run),
            environment=read_json(run.environment_file) or {"clfa": ""},
            class_names=model["labels"],
            offsets=model.get("offsets", []),
            openings=run.openings(config.data.path),
            probe=_probe_of(run),
            shown_metrics=tables.shown(METRICS),
        )
    )
    write_text(run.card_file, text)


def _metadata(run: Run, data_name: str) -> str:
    """YAML for a hub: what the card is of, and a `model-index` of its scores as fractions, their intervals in words."""
    results = [
        {
            "task": {"type": "text-classification", "name": "posts of text and image"},
            "dataset": {"type": data_name, "name": data_name, "split": split},
            "metrics": [
                {
                    "type": name,
                    "value": round(score.value, 6),
                    "name": f"{METRICS[name].title} {score.text(METRICS[name].unit)}",
                }
                for name, score in evaluation.metrics.items()
            ],
        }
        for split, evaluation in evaluations(run).items()
    ]
    index = [{"name": _name_of(run), "results": results}] if results else []
    about = {"library_name": "clfa", "pipeline_tag": "text-classification", "tags": ["multimodal", "text-and-image"]}
    return yaml.safe_dump(about | ({"model-index": index} if index else {}), sort_keys=False, allow_unicode=True)


def _name_of(run: Run) -> str:
    """The last two folders of its path."""
    return "/".join(run.path.resolve().parts[-2:])


def _probe_of(run: Run) -> Probe | None:
    return read_result(Probe, run.probe_file) if run.probe_file.is_file() else None


def evaluations(run: Run) -> dict[str, Evaluation]:
    """The stored evaluations of a run.

    Raises:
        UserError: they were written by a version whose results have another shape.
    """
    try:
        return {name: from_dict(Evaluation, stored) for name, stored in run.metrics().items() if name != "training"}
    except (TypeError, AttributeError):
        raise UserError(f"{run.metrics_file} was written by another version of clfa: evaluate again") from None


def _audit_of(dataset: Path, data: dict[str, Any] | None) -> Audit | None:
    """The audit of a data set, if it is there and of these posts."""
    if data is None or not (dataset / "audit.json").is_file():
        return None
    try:
        audit = read_result(Audit, dataset / "audit.json")
    except UserError as error:  # the card is complete without it
        log.warning("%s", error)
        return None
    hashes = {name: split.sha256 for name, split in audit.splits.items()}
    return audit if all(hashes.get(name) == split["sha256"] for name, split in data["splits"].items()) else None


# ---- a data set, systems, the demo


def write_audit(audit: Audit, folder: Path) -> None:
    """Write `audit.html`."""
    rows = ", ".join(f"{split} {entry.rows:,}" for split, entry in audit.splits.items())
    filters = "; ".join(audit.filters) or "none"
    languages = sum((Counter(counts) for counts in audit.languages.values()), Counter[str]())
    _write(
        "audit.html.j2",
        folder / "audit.html",
        title=f"Audit of {audit.dataset}",
        subtitle=f"{rows} posts · text as stored: {audit.text_cleaning} · filters: {filters} · clfa {audit.clfa_version}",
        result=audit,
        languages=[name for name, _ in languages.most_common(LANGUAGES)],
        figures=_sources({"cues": figures.cue_chart(audit.cues) if audit.cues else None}),
    )


@dataclass(frozen=True)
class Section:
    """A section of a page of tables."""

    title: str
    lines: list[str] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    figure: str = ""
    caption: str = ""


SCORES = (
    "Percent: mean ± standard deviation over runs (seeds) [95 % interval over runs and posts; for a single run over posts "
    "alone]"
)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md`, `.csv`, `.tex` and `.html`."""
    systems = tables.system_rows(comparison.systems, tables.shown(comparison.systems[0].metrics), "runs")
    tests, metric = tables.comparison_rows(comparison), METRICS[comparison.metric].title
    verdicts = [row.verdict for row in comparison.comparisons]
    note = (
        f"{comparison.posts:,} posts of {comparison.split}. {SCORES}; differences in points, paired. A difference is "
        "claimed if its interval excludes 0 and p (Holm) is at most 0.05; with fewer than five runs of each the claim "
        "is about these runs. Detectable: the smallest true difference that a 5 % test finds with 80 % power, as "
        "estimated from these runs. ASO: ε ≤ 0.2 is dominance."
    )
    gaps = {row.system: row.metrics[comparison.metric] for row in comparison.comparisons}
    drawn = figures.forest(
        {name: gap.difference for name, gap in gaps.items()},
        "points; grey: under the minimum detectable effect (80 % power)",
        detectable=[gap.detectable for gap in gaps.values()],
    )
    sections = [
        Section("Verdict", verdicts, [], figures.source(drawn), f"Differences in {metric} from {comparison.base}."),
        Section("Systems", [note], systems),
        Section("Tests", [], tests),
    ]
    title, subtitle = f"Comparison with {comparison.base}", f"split {comparison.split}, {metric}"
    text = [*verdicts, markdown(systems), markdown(tests), note]
    path, values = folder / "comparison", tables.comparison_values(comparison)
    _write_tables(path, title, subtitle, sections, text, [latex(systems), latex(tests), latex_text(note)], values)


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Write `table.md`, `.csv`, `.tex` and `.html`."""
    rows = tables.system_rows(sweep.systems, SWEEP_METRICS)
    note = f"{sweep.rows:,} posts of {sweep.split}. {SCORES}; differences in points, paired, verdicts after Holm."
    sections, verdicts = [Section("Systems", [note], rows)], [row.verdict for row in sweep.differences]
    if verdicts:
        sections.append(Section("Differences", verdicts, tables.difference_rows(sweep.differences, SWEEP_METRICS)))
    title, subtitle = folder.resolve().name, f"clfa sweep, {folder}"
    values = tables.system_values(sweep.systems, SWEEP_METRICS)
    tex = [latex(rows), *map(latex_text, [note, *verdicts])]
    _write_tables(folder / "table", title, subtitle, sections, [markdown(rows), note, *verdicts], tex, values)


def write_reproduction(result: Reproduction, folder: Path) -> None:
    """Write `table.md`, `.csv`, `.tex` and `.html`."""
    rows, notes, about = tables.reproduction_rows(result), tables.footnotes(result.rows), explanation(result)
    ran = {row.name + ("*" if row.stand_ins else ""): row for row in result.rows if row.metrics}
    sections = [Section("Ours and the published figures", [about], rows), Section("Notes", notes)]
    if ran:
        best = max(result.floors, key=lambda name: result.floors[name]["accuracy"].value)
        drawn = figures.forest(
            {name: row.metrics["accuracy"] for name, row in ran.items()},
            f"accuracy in percent; dashed: {tables.name_of(best)}",
            line=result.floors[best]["accuracy"].value,
            published={name: row.published["accuracy"] for name, row in ran.items() if "accuracy" in row.published},
            size=(7.2, 0.34),
        )
        caption = "Dots: mean of our runs; lines: the true score of one more run (95 %); diamonds: published."
        sections.insert(1, Section("Accuracy", figure=figures.source(drawn), caption=caption))
    title = f"{result.table.upper().replace('_', '-')}: published and reproduced"
    subtitle = f"{result.dataset.test:,} test posts of {result.dataset.name}. Published: {result.source}"
    text = [about, markdown(rows), *notes]
    tex = [latex(rows), *map(latex_text, [about, *notes])]
    _write_tables(folder / "table", title, subtitle, sections, text, tex, tables.reproduction_values(result))


def explanation(result: Reproduction) -> str:
    """What the numbers of a reproduced table are, in a paragraph."""
    tiny = "Random tiny models on generated posts: this shows that every system runs, and nothing else. "
    about = (
        "All in percent: mean ± standard deviation over runs, and an interval for the true score of one run (95 %; over "
        "runs and posts, for a single run over posts alone). The epoch is chosen on validation, test is read once a run. "
        "Lower, higher: the whole interval of accuracy lies below or above the published accuracy. Reproduced: published "
        "accuracy, macro F1 and binary F1 lie in our intervals, none over 6 points wide. Cannot tell: neither, or fewer "
        "than three runs, or stand-ins (*, see the notes). As both sides were tested on nearly the same posts, the "
        "intervals are rather too wide than too narrow."
    )
    return tiny + about if result.tiny else about


def write_demo(demo: Demo, folder: Path) -> None:
    """Write `report.html`: the set, the systems with intervals, an alignment heatmap."""
    posts = demo.illustrations
    drawn = {
        "systems": figures.demo_systems(demo.systems),
        "heatmap": figures.heatmap(posts.heatmap) if posts and posts.heatmap else None,
    }
    gain = next(row.metrics["accuracy"] for row in demo.differences if row.system == "clfa")
    _write(
        "demo.html.j2",
        folder / "report.html",
        title="clfa demo: congruity",
        subtitle=f"clfa demo --out {folder}",
        result=demo,
        gain=gain,
        figures=_sources(drawn),
    )


def _write_tables(
    path: Path, title: str, subtitle: str, sections: list[Section], text: list[str], tex: list[str], values: Rows
) -> None:
    """Write PATH.html with the sections, .md and .tex with paragraphs, .csv with values."""
    _write("tables.html.j2", path.with_suffix(".html"), title=title, subtitle=subtitle, sections=sections)
    write_text(path.with_suffix(".md"), "\n\n".join(text) + "\n")
    write_text(path.with_suffix(".tex"), "\n\n".join(tex) + "\n")
    write_csv(values, path.with_suffix(".csv"))


def _write(template: str, path: Path, **values: Any) -> None:
    write_text(path, environment().get_template(template).render(**values))


def _sources(drawn: dict[str, Any]) -> dict[str, str]:
    """Data URIs of the figures that there are."""
    return {name: figures.source(figure) if figure else "" for name, figure in drawn.items()}
