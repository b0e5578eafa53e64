"""The model card of a run, `RUN/README.md`: made from what the run and its evaluations wrote, never typed."""

import json
import re
from pathlib import Path
from typing import Any

from clfa.config import read_yaml

SCORES = ("accuracy", "macro_f1", "weighted_f1", "binary_f1")


def write_card(run: Path) -> Path:
    """Write the card from `config.yaml`, `dataset.json`, `environment.json`, `metrics.json`, `test_ledger.jsonl`, the
    probe if there is one, and the audit of the data set if it is of the same data.

    Args:
        run: finished run directory.
    """
    from jinja2 import Environment, PackageLoader

    config = read_yaml(run / "config.yaml")
    metrics = _json(run / "metrics.json") or {}
    data = _json(run / "dataset.json")
    environment = Environment(
        loader=PackageLoader("clfa", "report/templates"), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["plain"] = plain
    modalities = config["model"]["modalities"]
    text = environment.get_template("card.md.j2").render(
        name="/".join(run.resolve().parts[-2:]),
        config=config,
        data=data,
        data_name=(data or {}).get("name", Path(config["data"]["path"]).name),
        audit=_audit(Path(config["data"]["path"]), data),
        training=metrics["training"],
        results={name: found for name, found in metrics.items() if name != "training"},
        environment=_json(run / "environment.json") or {},
        labels=_json(run / "model.json")["labels"],  # type: ignore[index]  # a finished run has it
        openings=count_openings(run, config["data"]["path"]),
        kinds={modality["kind"] for modality in modalities.values()},
        frozen={name: modalities[found["shares"] or name]["frozen"] for name, found in modalities.items()},
        probe=_json(run / "probe.json"),
        scores=SCORES,
    )
    path = run / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def plain(value: Any) -> str:
    """Text of others for Markdown: nothing in it is markup, and it stays on its line."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


def count_openings(run: Path, dataset: str) -> int:
    """How often the test split of this data set was opened for this run, by `test_ledger.jsonl`."""
    path = run / "test_ledger.jsonl"
    if not path.is_file():
        return 0
    return sum(json.loads(line)["dataset"] == dataset for line in path.read_text(encoding="utf-8").splitlines())


def _audit(dataset: Path, data: dict[str, Any] | None) -> dict[str, Any] | None:
    found = _json(dataset / "audit.json")
    if found is None or data is None:
        return None
    same = all(found["splits"].get(name, {}).get("sha256") == entry["sha256"] for name, entry in data["splits"].items())
    return found if same else None


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
