"""Each shipped configuration is what its command reads; the paper's own run with tiny models."""

from pathlib import Path

import pytest
import yaml
from conftest import DIM

from clfa.config import RunConfig, SweepConfig, TeacherConfig, build_config, override
from clfa.errors import UserError
from clfa.evidence.evaluate import evaluate
from clfa.fusion import FUSIONS
from clfa.studies.reproduce import SYSTEMS
from clfa.training.train import train

ROOT = Path(__file__).resolve().parents[1]
SYSTEM_FILES = sorted((ROOT / "src" / "clfa" / "systems").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml")) + SYSTEM_FILES


def read(path: Path) -> tuple[type, dict]:
    """The class that a configuration is for, and its values (a sweep's `run:` file put in its place)."""
    values = yaml.safe_load(path.read_text())
    if "systems" in values:
        values["run"] = yaml.safe_load((path.parent / values["run"]).read_text())
        return SweepConfig, values
    return (TeacherConfig if "sources" in values else RunConfig), values


def test_there_are_configs():
    assert len(CONFIGS) >= 30
    assert {path.stem for path in SYSTEM_FILES} == set(SYSTEMS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_is_valid_and_its_header_names_its_command(path):
    cls, values = read(path)
    config = build_config(cls, values)
    header = path.read_text().split("output:")[0]
    command = {SweepConfig: "clfa sweep", RunConfig: "clfa train", TeacherConfig: "clfa teacher train"}[cls]
    assert f"{command} --config {path.relative_to(ROOT)}" in header
    if cls is SweepConfig:  # every system is a valid run
        for changes in config.systems.values():
            build_config(RunConfig, override(values["run"], changes))


@pytest.mark.parametrize("path", SYSTEM_FILES, ids=lambda path: path.stem)
def test_a_systems_header_says_where_it_comes_from(path):
    header = path.read_text().split("output:")[0]
    assert "Source: " in header
    assert f"runs/mmsd2/{path.stem}" in header
    values = yaml.safe_load(path.read_text())
    assert values["output"] == f"runs/mmsd/{path.stem}"
    if "knowledge" in values["model"]["modalities"] or "graph" in str(values["model"]):
        assert "column" in header  # what stands in where an input cannot be had


@pytest.mark.parametrize("name", ["att_bert", "cmgcn", "co_attention", "hke", "multi_view"])
def test_a_fusion_states_its_differences_where_a_header_sends_the_reader(name):
    docstring = FUSIONS[name].__doc__
    assert "Source:" in docstring
    assert "Differences from " in docstring
    assert any(f"clfa.fusion.{name}" in path.read_text() for path in CONFIGS)


def test_att_bert_reads_the_text_and_its_hashtags_apart():
    modalities = yaml.safe_load((ROOT / "src/clfa/systems/att_bert.yaml").read_text())["model"]["modalities"]
    assert modalities["text"]["part"] == "without_hashtags"
    assert modalities["hashtags"]["part"] == "hashtags"


def test_paper_settings_of_clfa():
    _, values = read(ROOT / "src/clfa/systems/clfa.yaml")
    config = build_config(RunConfig, values)
    assert (config.model.fusion.layers, config.model.dim, config.model.projection_hidden) == (3, 512, 1536)
    assert (config.loss.temperature, config.loss.alignment_weight) == (0.1, 1.0)
    assert (config.train.batch_size, config.train.epochs, config.train.head_learning_rate) == (8, 30, 1e-5)
    assert config.teacher == "openai/clip-vit-base-patch32"
    _, without = read(ROOT / "src/clfa/systems/bert_vit.yaml")
    assert without["model"] == values["model"]
    assert without["train"] == values["train"]


def test_released_code_config_trains_with_tiny_models(dataset, encoders, tmp_path):
    _, values = read(ROOT / "configs/mmsd/clfa_released_code.yaml")
    assert values["model"]["modalities"]["knowledge"]["polarity"] == "vader"
    tiny = override(
        values,
        {
            "data.path": str(dataset),
            "output": str(tmp_path / "run"),
            "teacher": str(encoders / "clip"),
            "model.dim": DIM,
            "model.projection_hidden": 32,
            "model.fusion.feedforward": 32,
            "train.epochs": 1,
            "model.modalities.text.encoder": str(encoders / "bert"),
            "model.modalities.text.max_length": 16,
            "model.modalities.image.encoder": str(encoders / "vit"),
        },
    )
    run = train(build_config(RunConfig, tiny))
    found = evaluate(run, "test", evidence=False)
    assert found.rows == 8


def test_overrides():
    values = {"model": {"modalities": {"text": 1, "image": 2}}, "loss": {"alignment_weight": 1}, "teacher": "x"}
    changed = override(values, {"model.modalities.image": None, "loss.alignment_weight": 0, "teacher": None})
    assert changed == {"model": {"modalities": {"text": 1}}, "loss": {"alignment_weight": 0}, "teacher": None}
    assert values["model"]["modalities"] == {"text": 1, "image": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"loss.temprature": 1}, "temprature"), ({"train.epochs": "many"}, "epochs"), ({"data": 3}, "data")],
)
def test_mistakes_name_the_key(changes, message):
    _, values = read(ROOT / "src/clfa/systems/clfa.yaml")
    with pytest.raises(UserError, match=message):
        build_config(RunConfig, override(values, changes))
