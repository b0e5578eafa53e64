"""Averaged weights: by hand, what they are used for, and batch norm's own averages."""

import json

import pytest
import torch
from safetensors.torch import load_file

import clfa.training.train as training
from clfa.evidence.evaluate import evaluate
from clfa.metrics import all_scores
from clfa.runs import Run
from clfa.training.average import averaged, start_average, update_average
from clfa.training.checkpoint import newest_whole
from clfa.training.setup import set_up
from clfa.training.train import State, train


def test_the_average_by_hand_and_where_the_model_has_it(run_config, encoders):
    """Of all trained parameters, none of a frozen encoder; buffers are the model's."""
    frozen = {"model__modalities__text__frozen": True, "model__modalities__image__encoder": str(encoders / "resnet")}
    config = run_config(**frozen, train__average=0.3, loss__alignment_weight=0)
    torch.manual_seed(0)
    setup = set_up(config)
    steps = [{name: own.detach().clone() for name, own in setup.model.named_parameters()}]
    step = setup.optimizer.step

    def recorded() -> None:
        step()
        steps.append({name: own.detach().clone() for name, own in setup.model.named_parameters()})

    setup.optimizer.step = recorded
    training._train_epoch(setup, config, State(), iter(setup.batches), lambda: None)
    trained = {name for name, own in setup.model.named_parameters() if own.requires_grad}
    assert len(steps) == 5
    assert setup.average.keys() == trained
    assert not any(name.startswith("encoders.text") for name in trained)
    buffers = {name: own.clone() for name, own in setup.model.named_buffers()}
    for name in trained:
        expected = steps[0][name]
        for number, weights in enumerate(steps[1:]):
            decay = min(0.3, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * weights[name]
        assert torch.allclose(setup.average[name], expected, atol=1e-6)
    kept = {name: own.clone() for name, own in setup.average.items()}
    with averaged(setup.model, setup.average):
        inside = {name: own.detach().clone() for name, own in setup.model.named_parameters()}
    assert all(torch.equal(inside[name], kept[name]) for name in trained)
    assert all(torch.equal(own, steps[-1][name]) for name, own in setup.model.named_parameters())
    assert all(torch.equal(own, kept[name]) for name, own in setup.average.items())
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(own, buffers[name]) for name, own in setup.model.named_buffers())


def test_a_long_average_forgets_where_it_began():
    model = torch.nn.Linear(1, 1, bias=False)
    average = start_average(model)
    average["weight"].fill_(1.0)
    model.weight.data.fill_(0.0)
    for step in range(100):
        update_average(average, model, step, 0.9999)
    assert average["weight"].item() < 1e-6


def test_the_averaged_weights_are_validated_and_saved(run_config, checkpoints_stay, tmp_path):
    changes = {"loss__alignment_weight": 0, "train__epochs": 1}
    run = train(run_config(**changes, train__average=0.9, output=str(tmp_path / "averaged")))
    plain = train(run_config(**changes, output=str(tmp_path / "plain")))
    trained = json.loads((run / "metrics.json").read_text())["training"]
    evaluate(run, "validation", evidence=False)
    found = Run(run).predictions("validation")
    scores = all_scores(found.labels, found.probabilities)
    assert scores["nll"] == pytest.approx(trained["best_validation_nll"], abs=1e-9)
    newest, plain_newest = (newest_whole(Run(each).checkpoints) for each in (run, plain))
    last, best, average, saved, unaveraged = (
        load_file(file)
        for file in (
            newest / "model.safetensors",
            newest / "best.safetensors",
            newest / "average.safetensors",
            run / "model.safetensors",
            plain_newest / "model.safetensors",
        )
    )
    assert all(torch.equal(last[name], unaveraged[name]) for name in last)  # averaging does not change the training
    assert all(torch.equal(best[name], saved[name]) for name in best)
    assert all(torch.equal(best[name], average[name]) for name in average)
    assert any(not torch.equal(average[name], last[name]) for name in average)
    assert not (plain_newest / "average.safetensors").exists()
