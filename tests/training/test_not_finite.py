"""A loss or a gradient that is not finite never reaches the weights; three in a row end the training and name the posts."""

import json

import pytest
import torch
from safetensors.torch import load_file

import clfa.training.train as training
from clfa.errors import UserError
from clfa.runs import Run


@pytest.fixture
def config(run_config):
    changes = {"train__epochs": 2, "train__batch_size": 4, "train__accumulation": 2, "loss__alignment_weight": 0.0}
    return lambda **more: run_config(**changes | more)


def spoil(monkeypatch, batches, how):
    """The loss of these batches, by their number over the whole training, is spoilt."""
    real, calls = training.loss_terms, []

    def forward(setup, *arguments):
        terms = real(setup, *arguments)
        calls.append(setup)
        return terms | {"loss": how(terms["loss"], setup)} if len(calls) - 1 in batches else terms

    monkeypatch.setattr(training, "loss_terms", forward)
    return calls


def lose(loss, setup):
    return loss * torch.nan


def spoil_gradient(loss, setup):
    """The value stays, the gradient of the classifier becomes 0 * inf."""
    weight = next(setup.model.classifier.parameters())
    return loss + (weight * 0).abs().sqrt().sum()


@pytest.mark.parametrize(("how", "lost"), [(lose, 1), (spoil_gradient, 0)])
def test_the_step_is_not_applied_and_training_goes_on(config, monkeypatch, caplog, how, lost):
    calls = spoil(monkeypatch, {1}, how)  # of step 1, which is batches 0 and 1
    before, after = [], []
    real = training._skip_step

    def skip(setup, *arguments):
        before.append({name: value.clone() for name, value in setup.model.state_dict().items()})
        real(setup, *arguments)

    monkeypatch.setattr(training, "_skip_step", skip)
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (after.append(1), step(self, *a, **k))[1])
    run = Run(training.train(config()))
    assert len(calls) == 12, "two epochs of six batches"
    assert (len(before), len(after)) == (1, 5), "of six steps one is not applied"
    assert "step 1: the loss or a gradient is not finite, the step is not applied" in caplog.text
    lines = run.log()
    assert [line.get("skipped_steps", 0) for line in lines] == [1, 0]
    assert all(0 < line["loss"] < 10 for line in lines), "means over what is finite"
    assert all(torch.isfinite(value).all() for value in load_file(run.path / "model.safetensors").values())


def test_three_in_a_row_name_their_posts(config, monkeypatch):
    calls = spoil(monkeypatch, set(range(4, 20)), lose)  # the third step, and all behind it
    with pytest.raises(UserError, match=r"3 steps in a row.*epoch 2.*posts are ") as error:
        training.train(config())
    sampler, rows = calls[0].sampler, calls[0].rows
    sampler.set_epoch(0)
    first = [rows[place]["id"] for batch in sampler.all_batches()[4:6] for place in batch.tolist()]
    sampler.set_epoch(1)
    others = [rows[place]["id"] for batch in sampler.all_batches()[:4] for place in batch.tolist()]
    named = str(error.value).rpartition("posts are ")[2].split(", ")
    assert named == list(dict.fromkeys(first + others))


def test_what_is_counted_survives_a_stop(config, monkeypatch):
    """Two before the stop, one behind it."""
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {0, 2, 4}, lose)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(UserError, match="3 steps in a row"):
            training.train(config())
    newest = sorted((Run(config().output).checkpoints).glob("step-*"))[-1]
    assert len(json.loads((newest / "progress.json").read_text())["suspects"]) == 2
    spoil(monkeypatch, {0}, lose)
    with pytest.raises(UserError, match="3 steps in a row"):
        training.train(config(), resume=True)
