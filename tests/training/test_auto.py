"""`loss.alignment_weight: auto`: alignment is taken where validation tells that it helps, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clfa.config import RunConfig
from clfa.data.splits import load_rows
from clfa.model.pipeline import Pipeline
from clfa.report.page import write_card
from clfa.runs import Run
from clfa.training.auto import WEIGHTS, Choice, choose
from clfa.training.train import train

LABELS = np.arange(400) % 2
NONE, TEXT, BOTH = Choice(0.0, ()), Choice(0.3, ("text",)), Choice(0.3, ("text", "image"))


def says(right, generator):
    """Log probabilities of models that are right about so many posts, and sure of it."""
    probability = np.where(generator.random(400) < right, 0.9, 0.2)
    return np.log(np.where(np.eye(2)[LABELS] > 0, probability[:, None], 1 - probability[:, None]))


def test_the_simplest_that_cannot_be_told_from_the_best():
    generator = np.random.default_rng(0)
    plain = says(0.7, generator)
    slightly = plain + 0.0
    slightly[:3] = np.log(np.where(np.eye(2)[LABELS[:3]] > 0, 0.95, 0.05))
    better = says(0.95, generator)
    chosen, told = choose({NONE: plain, BOTH: slightly}, LABELS)
    assert chosen == NONE, "a gain of three posts is luck"
    assert told[0].endswith(", taken")
    assert "the best" in told[1]
    chosen, told = choose({NONE: plain, BOTH: better}, LABELS)
    assert chosen == BOTH
    assert "no alignment: validation NLL" in told[0]
    assert "worse" in told[0]
    assert choose({NONE: plain, BOTH: better, replace(BOTH, first=True): better}, LABELS)[0] == BOTH
    nearly = better + 0.0
    nearly[:3] = plain[:3]
    assert choose({NONE: plain, BOTH: better, TEXT: nearly}, LABELS)[0] == TEXT, "one modality is simpler than two"


def test_the_choice_becomes_the_run(run_config, tmp_path):
    config: RunConfig = run_config(loss__alignment_weight="auto", train__epochs=1)
    run = Run(train(config))
    tried = run.metrics()["training"]["tried"]
    assert len(tried) == 1 + len(WEIGHTS) + 2 + 1
    assert sum(" of text and image first: " in line for line in tried) == 1
    taken = run.metrics()["training"]["alignment"]
    assert sum(line.endswith(", taken") for line in tried) == 1
    assert next(line for line in tried if line.endswith(", taken")).startswith(taken)
    write_card(run)
    assert "alignment weight auto, teacher" in run.card_file.read_text()
    rows = load_rows(config.data, "test")
    own = Pipeline.load(run.path).logits(rows)
    child = run.path / "candidates" / taken.replace(" ", "_")
    assert torch.equal(own, Pipeline.load(child).logits(rows))
    assert run.log() == Run(child).log()
    stamp = (child / "model.safetensors").stat().st_mtime_ns
    run.metrics_file.unlink()  # as if it had been stopped just before its end
    train(config, resume=True)
    assert run.metrics()["training"]["alignment"] == taken
    assert (child / "model.safetensors").stat().st_mtime_ns == stamp, "what is finished is not trained again"
    alone = next(line.split(":")[0] for line in tried if line.split(":")[0].endswith("of text"))
    modalities = Run(child.parent / alone.replace(" ", "_")).config().model.modalities
    assert modalities["text"].align
    assert not modalities["image"].align


@pytest.mark.parametrize("weight", ["0.0", "auto"])
def test_only_what_is_aligned_needs_a_teacher(run_config, weight):
    from clfa.errors import UserError

    config = run_config(loss__alignment_weight="auto" if weight == "auto" else 0.0, teacher=None, train__epochs=1)
    if weight == "auto":
        with pytest.raises(UserError, match="there is no teacher"):
            train(config)
        assert not (Run(config.output).path / "candidates").exists(), "refused before anything is trained"
    else:
        assert Run(train(config)).is_finished


def test_an_epoch_that_only_aligns_is_not_the_best_one(run_config):
    """With `first` the classifier is as it was drawn until a third of the steps is done, and patience begins after that."""
    run = Run(train(run_config(loss__alignment_schedule="first", train__epochs=6, train__patience=1)))
    log = run.log()
    assert [line["classification_loss"] == 0 for line in log[:3]] == [True, True, False]
    assert len(log) >= 3
    assert run.metrics()["training"]["best_epoch"] >= 3


def test_when_the_time_is_up_nothing_more_is_set_up_and_what_is_finished_is_taken(run_config, caplog, monkeypatch):
    caplog.set_level("INFO", "clfa")
    config: RunConfig = run_config(loss__alignment_weight="auto", train__epochs=1)
    whole = train(config)
    tried = Run(whole).metrics()["training"]["tried"]
    Run(whole).metrics_file.unlink()
    train(config, resume=True, deadline=0.0)
    assert Run(whole).metrics()["training"]["tried"] == tried, "all of them were finished before"
    first = next(path for path in (whole / "candidates").iterdir() if path.name.endswith("_first"))
    (first / "metrics.json").unlink()
    Run(whole).metrics_file.unlink()
    monkeypatch.setattr("clfa.training.train.set_up", lambda _: pytest.fail("there is no time for it"))
    train(config, resume=True, deadline=0.0)
    assert "first is not among the choices" in caplog.text
    assert len(Run(whole).metrics()["training"]["tried"]) == len(tried) - 1
