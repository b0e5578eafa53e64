"""Modality dropout: how often, never the last one, unseen by the alignment, the same bytes for a seed and after a resume."""

import pytest
import torch
from safetensors.torch import load_file

import clfa.training.train as training
from clfa.training.modality_dropout import draw_hidden, forward
from clfa.training.setup import set_up
from clfa.training.train import train


def test_one_of_those_that_are_there_as_often_as_asked():
    torch.manual_seed(0)
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    hidden = torch.stack([draw_hidden(present, 0.3) for _ in range(4_000)])
    often = hidden.float().mean(0)
    assert torch.allclose(often[0], torch.full((3,), 0.1), atol=0.02)
    assert torch.allclose(often[1], torch.tensor([0.15, 0, 0.15]), atol=0.02)
    assert not hidden[:, 2:].any()
    assert hidden.sum(2).max() == 1


def test_the_fusion_does_not_see_it_and_the_alignment_does(run_config):
    setup = set_up(run_config(model__missing="token"))
    model = setup.model.eval()
    batch = next(iter(setup.batches))
    whole, dropped = forward(model, batch, 0.0), forward(model, batch, 1.0)
    changed = (whole.logits - dropped.logits).abs().amax(1) > 1e-6
    both = whole.masks["text"].any(1) & whole.masks["image"].any(1)
    assert changed.tolist() == both.tolist()
    for name in ("text", "image"):
        assert torch.equal(whole.embeds[name], dropped.embeds[name])
        assert torch.equal(whole.masks[name], dropped.masks[name])


@pytest.mark.parametrize("missing", ["masked", "token"])
def test_same_seed_same_bytes_and_after_a_resume(run_config, tmp_path, monkeypatch, missing):
    changes = {"model__missing": missing, "train__modality_dropout": 0.5, "train__epochs": 2}
    plain = train(run_config(model__missing=missing, train__epochs=2, output=str(tmp_path / "plain")))
    whole = train(run_config(**changes, output=str(tmp_path / "whole")))
    save = training.save_checkpoint

    def save_then_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", save_then_die)
    config = run_config(**changes, output=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(training, "save_checkpoint", save)
    first, second, third = (load_file(run / "model.safetensors") for run in (whole, train(config, resume=True), plain))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
