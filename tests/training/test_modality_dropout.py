"""Modality dropout: hidden from the fusion alone, never the last one, the loss by hand, the same bytes after a resume."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import clfa.training.train as training
from clfa.training.modality_dropout import forward
from clfa.training.objective import objective
from clfa.training.setup import set_up
from clfa.training.train import train


@pytest.mark.parametrize("missing", ["masked", "token"])
def test_each_modality_is_hidden_from_the_fusion_alone_and_never_the_last(run_config, missing):
    """As if the posts lacked it; what alignment reads stays."""
    setup = set_up(run_config(model__missing=missing, train__batch_size=24))
    model = setup.model.eval()
    batch = next(iter(setup.batches))
    whole, lacking = forward(model, batch, hide=True)
    there = {name: whole.masks[name].any(1) for name in ("text", "image")}
    assert there["image"].sum() == 23
    rows = [setup.rows[place] for place in next(iter(setup.sampler))]
    for (name, nothing), output in zip({"text": None, "image": None}.items(), lacking, strict=True):
        expected = model(setup.pipeline.collate([row.replace(**{name: nothing}) for row in rows])).logits
        assert torch.allclose(output.logits[there["image"]], expected[there["image"]], atol=1e-5)
        assert torch.equal(output.logits[~there["image"]], whole.logits[~there["image"]])
        assert not torch.allclose(output.logits[there["image"]], whole.logits[there["image"]], atol=1e-4)
        for part in ("states", "masks", "embeds"):
            assert all(torch.equal(getattr(output, part)[n], getattr(whole, part)[n]) for n in there)
    assert forward(model, batch, hide=False)[1] == []


def test_the_loss_by_hand(run_config):
    config = run_config(train__modality_dropout=0.6, model__dropout=0.0)
    setup = set_up(config)
    model = setup.model.eval()
    batch = next(iter(setup.batches))
    whole, lacking = forward(model, batch, hide=True)
    terms = training.loss_terms(setup, config, batch, 0.0, [len(batch.labels)])
    plain = objective(whole, batch, config.loss, model.config, setup.class_weights)
    losses = [cross_entropy(output.logits, batch.labels) for output in (whole, *lacking)]
    expected = 0.4 * losses[0] + 0.3 * losses[1] + 0.3 * losses[2]
    assert torch.allclose(terms["classification_loss"], expected)
    assert torch.allclose(terms["loss"], plain["loss"] - losses[0] + expected)
    assert torch.equal(terms["alignment_loss_text"], plain["alignment_loss_text"])


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
