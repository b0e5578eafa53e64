"""LoRA: nothing is changed at first, only adapters are trained, and what is saved is a plain encoder."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.model.adapters import add_adapters, merge_adapters
from clfa.model.encoders import load_encoder
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.training.checkpoint import newest_whole
from clfa.training.train import train

TEXTS = ["word1 word2 word3", "word4"]


def states(encoder):
    return torch.cat(encoder.encode(TEXTS))


@pytest.mark.parametrize("last", [None, 1])
def test_unchanged_at_first_and_merged_at_last(encoders, last):
    encoder = load_encoder(str(encoders / "bert"), "text")
    before, names = states(encoder), set(encoder.backbone.state_dict())
    add_adapters(encoder.backbone, 3, last)
    assert torch.equal(states(encoder), before)
    trained = {name: p for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert {name.split("layer.")[1][0] for name in trained} == ({"1"} if last else {"0", "1"})
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.values():
        parameter.data += torch.randn(parameter.shape, generator=generator) / 10
    beside = states(encoder)
    assert (beside - before).abs().max() > 0.01
    merge_adapters(encoder.backbone)
    assert torch.allclose(states(encoder), beside, atol=1e-5)
    assert set(encoder.backbone.state_dict()) == names


def test_a_run_is_saved_as_a_plain_encoder(run_config, checkpoints_stay, encoders):
    config = run_config(model__modalities__text__lora=4, train__encoder_learning_rate=1e-2, loss__alignment_weight=0)
    run = Run(train(config))
    assert json.loads((run.path / "model.json").read_text())["model"]["modalities"]["text"]["lora"] is None
    found, base = load_file(run.path / "model.safetensors"), load_file(encoders / "bert" / "model.safetensors")
    assert not any("lora" in name for name in found)
    base = {name: value for name, value in base.items() if not name.startswith("pooler.")}
    changed = {name for name, value in base.items() if not torch.equal(found[f"encoders.text.backbone.{name}"], value)}
    assert changed == {name for name in base if ".layer." in name and name.endswith("weight") and "Norm" not in name}
    with safe_open(newest_whole(run.checkpoints) / "best.safetensors", "pt") as best:
        of_text = [name for name in best.keys() if name.startswith("encoders.text.") and ".lora_" not in name]  # noqa: SIM118
    assert not [name for name in of_text if name.endswith("weight")], "checkpoints hold adapters alone"
    rows = load_rows(config.data, "validation")
    scored = run.log()[run.metrics()["training"]["best_epoch"] - 1]["validation"]["nll"]
    labels = torch.from_numpy(rows.labels)
    logits = Pipeline.load(run.path).logits(rows)
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(scored, abs=1e-5)


def test_goes_on_after_a_stop_to_the_same_weights(run_config, tmp_path):
    changes = {"model__modalities__text__lora": 2, "model__modalities__text__trained_layers": 1}
    whole = train(run_config(**changes, output=str(tmp_path / "whole")))
    stopped = run_config(**changes, output=str(tmp_path / "stopped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfa.training.train.State.epochs_left", lambda state, _: iter(range(2)))
        patch.setattr("clfa.training.train.load_best", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(stopped)
    own = train(stopped, resume=True)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, own))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_has_no_layers_or_is_frozen_is_refused(run_config, encoders):
    with pytest.raises(UserError, match="no list of layers"):
        train(run_config(model__modalities__image__lora=4, model__modalities__image__encoder=str(encoders / "resnet")))
    with pytest.raises(UserError, match=r"model\.modalities\.text has lora, and a rank below 1, or is frozen"):
        train(run_config(model__modalities__text__lora=4, model__modalities__text__frozen=True))
