"""Posts without labels: they reach the alignment loss and never the classification, and nobody judges a run on them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_dataset, picture, text

import clfa
import clfa.training.auto as auto
from clfa.data.records import Record
from clfa.errors import UserError
from clfa.losses import alignment_loss, classification_loss
from clfa.training.objective import objective
from clfa.training.sampler import Beside, LengthBuckets
from clfa.training.setup import set_up
from clfa.training.train import train

COUNTS = {"train": 12, "validation": 8, "test": 8, "unlabelled": 10}


@pytest.fixture
def posts(tmp_path):
    """A dataset directory with a split whose posts have no label."""

    def post(split: str, number: int) -> Record:
        seed = number + 100 * len(split)
        label = None if split == "unlabelled" else ["no", "yes"][number % 2]
        return Record(f"{split}-{number}", text(seed, 3 + number % 5), picture(seed), label)

    return make_dataset(tmp_path / "posts", COUNTS, post, class_names=["no", "yes"])


@pytest.mark.parametrize("unlabelled", ["unlabelled", "train"])
def test_they_are_aligned_and_not_classified(run_config, posts, unlabelled):
    config = run_config(data__path=str(posts), data__unlabelled=unlabelled, model__dropout=0.0)
    setup = set_up(config)
    batch = next(iter(setup.batches))
    assert (batch.labels >= 0).tolist() == [True] * 6 + [False] * 6
    output = setup.model.eval()(batch)
    terms = objective(output, batch, config.loss, setup.model.config, setup.class_weights)
    assert torch.allclose(
        terms["classification_loss"], classification_loss(output.logits[:6], batch.labels[:6], setup.class_weights)
    )
    for name, embeds in output.embeds.items():
        inputs = batch.modalities[name]
        expected = alignment_loss(embeds, inputs.teacher_embeds, inputs.present, config.loss.temperature)
        assert torch.allclose(terms[f"alignment_loss_{name}"], expected)
        assert inputs.teacher_embeds[6:].abs().sum(1).min() > 0
    (gradient,) = torch.autograd.grad(terms["classification_loss"], output.logits)
    assert gradient[6:].abs().sum() == 0


def test_each_is_drawn_before_one_comes_again_and_the_labelled_batches_stay(run_config, posts):
    plain = LengthBuckets([5] * 12, 4, seed=3)
    beside = Beside(LengthBuckets([5] * 12, 4, seed=3), 12, 10)
    epochs = []
    for epoch in (0, 1, 0):
        plain.set_epoch(epoch)
        beside.batches.set_epoch(epoch)
        batches = list(beside)
        assert [batch[:4] for batch in batches] == list(plain)
        drawn = [place for batch in batches for place in batch[4:]]
        assert len(drawn) == 12
        assert sorted(drawn[:10]) == list(range(12, 22))
        epochs.append(drawn)
    assert epochs[0] == epochs[2] != epochs[1]


def test_a_run_with_them_and_no_judgement_of_it(run_config, posts, tmp_path):
    config = run_config(data__path=str(posts), data__unlabelled="unlabelled", train__epochs=1)
    run = train(config)
    without = train(replace(config, data=replace(config.data, unlabelled=None), output=str(tmp_path / "without")))
    assert (run / "model.safetensors").read_bytes() != (without / "model.safetensors").read_bytes()
    assert clfa.evaluate(run, "test", evidence=False).rows == 8
    with pytest.raises(UserError, match=r"10 posts of the split unlabelled of .* have no label"):
        clfa.evaluate(run, "unlabelled")
    assert set(clfa.audit(posts).labels) == {"train", "validation", "test"}


def test_they_are_among_all_negatives_and_no_alignment_goes_without_them(run_config, posts):
    config = run_config(data__path=str(posts), data__unlabelled="unlabelled", loss__negatives="all", train__epochs=1)
    setup = set_up(config)
    assert len(setup.everyone["text"].embeds) == 22
    assert (train(config) / "metrics.json").is_file()
    child = auto._child(config, auto.Choice(0.0, ()), Path("child"))
    assert child.data.unlabelled is None
    assert auto._child(config, auto.Choice(0.1, ("text",)), Path("child")).data.unlabelled == "unlabelled"


def test_they_are_in_no_fold(run_config, posts):
    setup = set_up(run_config(data__path=str(posts), data__folds=4, data__unlabelled="unlabelled"))
    assert len(setup.rows) + len(setup.validation) == 21
    assert (setup.rows.labels >= 0).all()
    assert len(next(iter(setup.batches)).labels) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__unlabelled": "test"}, "data.unlabelled = test: its posts choose or judge"),
        ({"data__unlabelled": "validation"}, "data.unlabelled = validation: its posts choose or judge"),
        ({"data__unlabelled": "unlabeled"}, "no split 'unlabeled'; it has train, validation, test, unlabelled"),
        ({"data__unlabelled": "unlabelled", "loss__alignment_weight": 0}, "this run aligns nothing"),
    ],
)
def test_mistakes_are_told(run_config, posts, changes, message):
    with pytest.raises(UserError, match=message):
        train(run_config(data__path=str(posts), **changes))
