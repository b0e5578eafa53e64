"""EMAP's identities, counterfactuals equal to predicting them, corruptions, verdicts."""

import json

import numpy as np
import pytest
import torch
from conftest import picture, text
from PIL import Image

from clfa.data.images import open_image
from clfa.data.records import load_split
from clfa.errors import UserError
from clfa.evidence.corruptions import IMAGE_CORRUPTIONS, TEXT_CORRUPTIONS, corrupt_image, corrupt_text
from clfa.evidence.probe import emap, probe_run, verdict
from clfa.fusion import pool
from clfa.model.batch import Collator
from clfa.model.classifier import build_classifier
from clfa.model.parts import ABSENT, read_parts
from clfa.serving.predictor import Predictor, compute_logits
from clfa.training.train import train


def silent(line: str) -> None:
    """No progress."""


def test_emap_of_an_additive_function_is_the_function():
    generator = np.random.default_rng(0)
    by_text, by_image = generator.normal(size=(2, 40, 3))
    logits = by_text[:, None] + by_image[None]
    assert emap(logits) == pytest.approx(by_text + by_image, abs=1e-12)


def test_emap_of_xor_is_at_chance():
    """f(t, v) = [t != v] on balanced posts: the best additive model is a constant."""
    sides = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    logits = np.where(sides[0][:, None] != sides[1][None], 1.0, -1.0)[..., None] * np.array([-1, 1])
    assert emap(logits) == pytest.approx(np.zeros((4, 2)), abs=1e-12)


class Additive(torch.nn.Module):
    """A fusion without interplay: a linear map of each pooled side, added."""

    def __init__(self, dim):
        super().__init__()
        self.query, self.context = torch.nn.Linear(dim, dim), torch.nn.Linear(dim, dim)

    def forward(self, query, query_mask, contexts):
        context = contexts[0]
        return self.query(pool(query, query_mask, "mean")) + self.context(pool(context.states, context.mask, "mean"))


@pytest.fixture
def parts(run_config, dataset):
    """`parts(fusion)`: all test posts read by an untrained model, and the plain way to predict them."""

    def build(fusion=None):
        torch.manual_seed(0)
        config = run_config()
        model = build_classifier(config.model, ["no", "yes"]).eval()
        if fusion:
            model.fusion = fusion(config.model.dim)
        preparers = {name: encoder.preparer for name, encoder in model.encoders.items()}
        collator = Collator(config.model.modalities, preparers)
        rows = load_split(dataset, "test")
        return model, collator, rows, read_parts(model, rows, collator, batch_size=3)

    return build


def test_emap_of_an_additive_model_is_the_model(parts):
    model, collator, rows, found = parts(Additive)
    everyone = np.arange(len(rows))
    pairs = found.logits(np.repeat(everyone, len(rows)), np.tile(everyone, len(rows))).reshape(len(rows), len(rows), 2)
    plain = compute_logits(model, rows, collator, 4).numpy()
    assert emap(pairs) == pytest.approx(plain, abs=1e-6)


def test_parts_put_together_are_the_posts(parts):
    model, collator, rows, found = parts()
    everyone = np.arange(len(rows))
    assert found.logits(everyone, everyone) == pytest.approx(compute_logits(model, rows, collator, 4).numpy(), abs=1e-5)
    swapped = np.roll(everyone, 1)
    posts = [{**rows[n], "image": rows[int(other)]["image"]} for n, other in zip(range(len(rows)), swapped)]
    assert found.logits(everyone, swapped) == pytest.approx(compute_logits(model, posts, collator, 4).numpy(), abs=1e-5)
    for column, pair in (("image", (everyone, everyone * 0 + ABSENT)), ("text", (everyone * 0 + ABSENT, everyone))):
        posts = [{**row, column: None} for row in rows]
        assert found.logits(*pair) == pytest.approx(compute_logits(model, posts, collator, 4).numpy(), abs=1e-5)


def test_padding_on_the_left_cuts_nothing(parts):
    """Some tokenizers pad in front: a post alone and in a batch must be the same."""
    model, _, rows, _ = parts()
    model.encoders["text"].preparer.padding_side = "left"
    collator = Collator(model.config.modalities, {name: encoder.preparer for name, encoder in model.encoders.items()})
    found = read_parts(model, rows, collator)
    everyone = np.arange(len(rows))
    together = found.logits(everyone, everyone)
    alone = np.concatenate([found.logits(everyone[n : n + 1], everyone[n : n + 1]) for n in everyone])
    assert alone == pytest.approx(together, abs=1e-5)


def test_large_pictures_are_bounded():
    from clfa.evidence.probe import _bounded, _stored

    large = _stored(Image.new("RGB", (2000, 1000)))
    small = open_image(_bounded({"image": {"bytes": large}})["image"]["bytes"])
    assert small.size == (512, 256)


def test_probe_of_a_run(run_config):
    run = train(run_config(train__epochs=1), say=silent)
    result = probe_run(run, "test", posts=5, corrupted=4, say=silent)
    assert json.loads((run / "probe.json").read_text()) == result
    assert (result["emap"]["posts"], result["emap"]["exact"]) == (5, False)
    assert len(result["corruptions"]["image"]) == 12
    assert len(result["corruptions"]["text"]) == 8
    assert all(len(found["accuracy"]) == 5 for found in result["corruptions"]["image"].values())
    for side in ("text", "image"):
        found = result["modalities"][side]
        assert set(found) == {"shuffled", "blanked", "masked", "perceptual_score"}
        curve = result["missing"][side]
        assert [point["share"] for point in curve] == [0.0, 0.1, 0.3, 0.5, 1.0]
        assert curve[0]["accuracy"] == pytest.approx(result["accuracy"])
        assert curve[-1]["accuracy"] == pytest.approx(found["masked"]["accuracy"])
    predictor = Predictor(run)
    rows = [dict(row) for row in load_split(run_config().data.path, "test")]
    truth = [["no", "yes"][row["label"]] for row in rows]
    blank = [found.predicted for found in predictor([{**row, "text": ""} for row in rows])]
    assert result["modalities"]["text"]["blanked"]["accuracy"] == pytest.approx(np.mean(np.array(blank) == truth))
    assert result["verdict"] in (run / "README.md").read_text()
    assert [json.loads(line)["purpose"] for line in (run / "test_ledger.jsonl").read_text().splitlines()] == ["probe"]
    assert probe_run(run, "test", posts=8, corrupted=0, say=silent)["emap"]["exact"]


def test_one_modality_is_refused(run_config):
    config = run_config(model__modalities__image=None, loss__alignment_weight=0, train__epochs=1)
    run = train(config, say=silent)
    with pytest.raises(UserError, match="nothing to probe"):
        probe_run(run, "test", 5, 0, say=silent)


def found(value, low, high):
    return {"accuracy": {"value": value, "ci95": [low, high]}}


@pytest.mark.parametrize(
    ("gain", "text_loss", "image_loss", "expected"),
    [
        ((0.031, 0.012, 0.049), (0.2, 0.1, 0.3), (0.05, 0.01, 0.09), "multimodal gain 3.1 points [1.2, 4.9]"),
        ((0.031, 0.012, 0.049), (0.2, 0.1, 0.3), (0.01, -0.01, 0.02), "no evidence that the image is used"),
        ((0.0, 0.0, 0.0), (0.0, -0.1, 0.1), (0.0, 0.0, 0.0), "no evidence that the text or the image is used"),
        ((0.001, -0.01, 0.02), (0.2, 0.1, 0.3), (0.05, 0.01, 0.09), "both are used"),
    ],
)
def test_verdicts(gain, text_loss, image_loss, expected):
    result = {
        "emap": {"gain": found(*gain), "mcnemar_p": 0.01},
        "modalities": {
            "text": {"shuffled": {"loss": found(*text_loss)}},
            "image": {"shuffled": {"loss": found(*image_loss)}},
        },
    }
    assert verdict(result).startswith(expected)


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_image_corruptions(name):
    small = Image.fromarray(np.random.default_rng(0).integers(40, 200, (28, 36, 3), dtype=np.uint8))
    image = small.resize((288, 224), Image.Resampling.BICUBIC)
    changes = []
    for severity in range(1, 6):
        bad, again = (corrupt_image(image, name, severity, np.random.default_rng(1)) for _ in range(2))
        assert (bad.size, bad.mode) == (image.size, "RGB")
        assert bad.tobytes() == again.tobytes()
        changes.append(np.abs(np.asarray(bad, float) - np.asarray(image, float)).mean())
    assert changes[0] > 0
    assert name == "rotation" or changes == sorted(changes), changes  # noise turned by any angle differs as much
    tiny = corrupt_image(open_image(picture(0, (1, 1))), name, 5, np.random.default_rng(0))
    assert tiny.size == (1, 1)


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_text_corruptions(name):
    post = text(3, 60) + " , an awful day ! so good . really ?"
    changes = []
    for severity in (1, 3, 5):
        bad, again = (corrupt_text(post, name, severity, np.random.default_rng(1)) for _ in range(2))
        assert bad == again
        changes.append(sum(one != two for one, two in zip(bad.split(), post.split())) + abs(len(bad) - len(post)))
    assert 0 < changes[0] < changes[2]
    assert isinstance(corrupt_text("", name, 5, np.random.default_rng(0)), str)
