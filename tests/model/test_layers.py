"""Training the last layers on cached states: the same numbers as running the whole encoder."""

import numpy as np
import pytest
import torch

from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.model.encoders import load_encoder
from clfa.model.layers import layers, lower, upper
from clfa.model.pipeline import Pipeline
from clfa.training.optimizer import parameter_groups
from clfa.training.setup import set_up
from clfa.training.train import train


@pytest.mark.parametrize(("name", "kind"), [("bert", "text"), ("roberta", "text"), ("vit", "image"), ("deit", "image")])
def test_upper_of_lower_is_the_whole(encoders, name, kind):
    encoder = load_encoder(str(encoders / name), kind, trained_layers=1).eval()
    values = ["word1 word2 word3", "word4"] if kind == "text" else [encoder.kind.blank, encoder.kind.blank]
    inputs = encoder.prepare(values)
    below = lower(encoder.backbone, 1, inputs)
    whole = encoder.backbone(**inputs).last_hidden_state
    stood_in = encoder.kind.stand_in(encoder.preparer, encoder.kind.mask(below, inputs))
    assert torch.equal(upper(encoder.backbone, 1, below, inputs).last_hidden_state, whole)
    assert torch.equal(encoder({**stood_in, "lower_states": below})[0], whole)
    assert len(layers(encoder.backbone)) == 2, "the list of layers is as it was"


def test_only_the_last_layer_is_trained(encoders):
    encoder = load_encoder(str(encoders / "bert"), "text", trained_layers=1).train()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".layer.1." in name for name in trained)
    assert not encoder.backbone.embeddings.training
    assert layers(encoder.backbone)[1].training
    with pytest.raises(UserError, match="2 layers, allowed are 1 to 1"):
        load_encoder(str(encoders / "bert"), "text", trained_layers=2)
    with pytest.raises(UserError, match="no list of layers"):
        load_encoder(str(encoders / "mobilenet"), "image", trained_layers=1)


def test_training_changes_the_last_layer_and_reads_the_cache(run_config, dataset):
    both = {"model__modalities__text__trained_layers": 1, "model__modalities__image__trained_layers": 1}
    config = run_config(**both, train__epochs=1, loss__alignment_weight=0)
    setup = set_up(config)
    batch = next(iter(setup.batches))
    assert all("lower_states" in one.inputs for one in batch.modalities.values())
    before = {name: value.clone() for name, value in setup.model.encoders["text"].state_dict().items()}
    run = train(config)
    after = Pipeline.load(run)
    changed = {n for n, v in after.model.encoders["text"].state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(".layer.1." in name for name in changed)
    rows = load_split(dataset, "validation")
    plain = after.logits(rows)
    folder = {path.name for path in (dataset / "states").iterdir()}
    after.cache(dataset, ["validation"])  # the trained run finds the states that training cached
    assert {path.name for path in (dataset / "states").iterdir()} == folder
    assert set(after.caches) == {"text", "image"}
    np.testing.assert_allclose(after.logits(rows).numpy(), plain.numpy(), atol=2e-3)  # the cache holds half precision


def test_learning_rates_fall_with_depth(run_config):
    setup = set_up(run_config(train__layer_decay=0.5, train__encoder_learning_rate=0.4, loss__alignment_weight=0))
    peaks = {}
    names = {id(parameter): name for name, parameter in setup.model.named_parameters()}
    for group in parameter_groups(
        setup.model, run_config(train__layer_decay=0.5, train__encoder_learning_rate=0.4).train
    ):
        peaks |= {names[id(parameter)]: group["peak"] for parameter in group["params"]}
    text = "encoders.text.backbone."
    assert peaks[text + "encoder.layer.1.output.dense.weight"] == 0.4
    assert peaks[text + "encoder.layer.0.output.dense.weight"] == 0.2
    assert peaks[text + "embeddings.word_embeddings.weight"] == 0.1
    assert peaks["encoders.image.backbone.layernorm.weight"] == 0.4
    assert peaks["classifier.weight"] == run_config().train.head_learning_rate


def test_averaged_modalities_are_one_token(run_config, dataset):
    frozen = {"model__modalities__image__averaged": True, "model__modalities__image__frozen": True}
    run = train(run_config(**frozen, train__epochs=1, loss__alignment_weight=0))
    pipeline, rows = Pipeline.load(run), load_split(dataset, "test")
    plain = pipeline.output([rows[0], rows[1]])
    assert plain.states["image"].shape[1] == 1
    assert plain.states["text"].shape[1] > 1
    logits = pipeline.logits(rows)
    pipeline.cache(dataset, ["test"])
    np.testing.assert_allclose(pipeline.logits(rows).numpy(), logits.numpy(), atol=2e-3)
    with pytest.raises(UserError, match="averaged to one token"):
        set_up(run_config(model__modalities__text__averaged=True, model__modalities__text__graph="window"))
