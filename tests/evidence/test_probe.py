"""EMAP's identities, counterfactuals equal to predicting them, corruptions, verdicts."""

import json

import numpy as np
import pytest
import torch
from conftest import make_dataset, picture, text
from PIL import Image

from clfa import commands
from clfa.config import FusionConfig
from clfa.data.images import open_image
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.evidence.corruptions import IMAGE_CORRUPTIONS, TEXT_CORRUPTIONS
from clfa.evidence.probe import emap, probe, verdict
from clfa.evidence.results import Change, Emap, Probe, Side, read_result
from clfa.fusion import Fusion, pool
from clfa.metrics import Score
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import ABSENT, Pipeline
from clfa.serving.predictor import Predictor
from clfa.training.train import train


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


class Additive(Fusion):
    """A fusion without interplay: a linear map of each pooled side, added."""

    def __init__(self, dim):
        super().__init__(dim, ["image"], FusionConfig(), "mean")
        self.query, self.context = torch.nn.Linear(dim, dim), torch.nn.Linear(dim, dim)

    def forward(self, query, contexts):
        image = contexts["image"]
        return self.query(pool(query.states, query.mask, "mean")) + self.context(pool(image.states, image.mask, "mean"))


@pytest.fixture
def pipeline(run_config):
    """`pipeline(fusion)`: an untrained model in use."""

    def build(fusion=None):
        torch.manual_seed(0)
        config = run_config()
        model = build_classifier(config.model, ["no", "yes"])
        if fusion:
            model.fusion = fusion(config.model.dim)
        return Pipeline(model, batch_size=3)

    return build


def test_emap_of_an_additive_model_is_the_model(pipeline, dataset):
    used, rows = pipeline(Additive), load_split(dataset, "test")
    everyone = np.arange(len(rows))
    pairs = used.recombine(used.states(rows), np.repeat(everyone, len(rows)), np.tile(everyone, len(rows)))
    plain = used.logits(rows).numpy()
    assert emap(pairs.reshape(len(rows), len(rows), 2)) == pytest.approx(plain, abs=1e-6)


def test_states_put_together_are_the_posts(pipeline, dataset):
    used, rows = pipeline(), load_split(dataset, "test")
    states, everyone = used.states(rows), np.arange(len(rows))
    assert used.recombine(states, everyone, everyone) == pytest.approx(used.logits(rows).numpy(), abs=1e-5)
    swapped = np.roll(everyone, 1)
    posts = [{**rows[n], "image": rows[int(other)]["image"]} for n, other in zip(range(len(rows)), swapped)]
    assert used.recombine(states, everyone, swapped) == pytest.approx(used.logits(posts).numpy(), abs=1e-5)
    for column, pair in (("image", (everyone, everyone * 0 + ABSENT)), ("text", (everyone * 0 + ABSENT, everyone))):
        posts = [{**row, column: None} for row in rows]
        assert used.recombine(states, *pair) == pytest.approx(used.logits(posts).numpy(), abs=1e-5)


def test_padding_on_the_left_cuts_nothing(pipeline, dataset):
    """Some tokenizers pad in front: a post alone and in a batch must be the same."""
    used, rows = pipeline(), load_split(dataset, "test")
    used.preparers["text"].padding_side = "left"
    states, everyone = used.states(rows), np.arange(len(rows))
    together = used.recombine(states, everyone, everyone)
    alone = np.concatenate([used.recombine(states, everyone[n : n + 1], everyone[n : n + 1]) for n in everyone])
    assert alone == pytest.approx(together, abs=1e-5)


def test_large_images_are_bounded(dataset):
    from clfa.evidence.judge import _bounded, _stored

    large = load_split(dataset, "test")[0].replace(image=_stored(Image.new("RGB", (2000, 1000))))
    small = open_image(_bounded(large)["image"]["bytes"])
    assert small.size == (512, 256)


def test_probe_of_a_run(run_config):
    run = train(run_config(train__epochs=1))
    result = commands.probe(str(run), posts=5, corrupted=4)
    assert read_result(Probe, run / "probe.json") == result
    assert (result.emap.posts, result.emap.exact) == (5, False)
    assert len(result.corruptions.image) == 12
    assert len(result.corruptions.text) == 8
    assert all(len(found.accuracy) == 5 for found in result.corruptions.image.values())
    assert set(result.modalities) == {"text", "image"}
    for found in result.modalities.values():
        assert [change.share for change in found.missing] == [0.0, 0.1, 0.3, 0.5, 1.0]
        assert found.missing[0].metrics["accuracy"].value == pytest.approx(result.metrics["accuracy"].value)
        assert found.missing[-1].metrics["accuracy"].value == pytest.approx(found.masked.metrics["accuracy"].value)
    predictor = Predictor(run)
    rows = [dict(row) for row in load_split(run_config().data.path, "test")]
    truth = [["no", "yes"][row["label"]] for row in rows]
    blank = [found.predicted for found in predictor([{**row, "text": ""} for row in rows])]
    assert result.modalities["text"].blanked.metrics["accuracy"].value == pytest.approx(
        np.mean(np.array(blank) == truth)
    )
    assert result.verdict in (run / "README.md").read_text()
    assert [json.loads(line)["purpose"] for line in (run / "test_ledger.jsonl").read_text().splitlines()] == ["probe"]
    commands.evaluate(str(run), split="test", normalise_format=False)
    assert commands.probe(str(run), posts=8, corrupted=0).emap.exact
    page = (run / "report-test.html").read_text()
    assert "Does it use both modalities?" in page
    assert "The errors it was most sure of" in page


def test_one_modality_is_refused(run_config):
    config = run_config(model__modalities__image=None, loss__alignment_weight=0, train__epochs=1)
    run = train(config)
    with pytest.raises(UserError, match="nothing to probe"):
        probe(run, "test", 5, 0)


def side(loss) -> Side:
    """Shuffling costs this much."""
    change = Change({"accuracy": Score(0.5)}, {"accuracy": Score(*loss)})
    return Side(change, change, change, 0.0, [])


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
    additive = Emap(8, True, {}, {}, {"accuracy": Score(*gain)}, 0.01)
    assert verdict(additive, {"text": side(text_loss), "image": side(image_loss)}).startswith(expected)


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_image_corruptions(name):
    small = Image.fromarray(np.random.default_rng(0).integers(40, 200, (28, 36, 3), dtype=np.uint8))
    image = small.resize((288, 224), Image.Resampling.BICUBIC)
    changes = []
    for severity in range(1, 6):
        bad, again = (IMAGE_CORRUPTIONS[name](image, severity, np.random.default_rng(1)) for _ in range(2))
        assert (bad.size, bad.mode) == (image.size, "RGB")
        assert bad.tobytes() == again.tobytes()
        changes.append(np.abs(np.asarray(bad, float) - np.asarray(image, float)).mean())
    assert changes[0] > 0
    assert name == "rotation" or changes == sorted(changes), changes  # noise turned by any angle differs as much
    tiny = IMAGE_CORRUPTIONS[name](open_image(picture(0, (1, 1))), 5, np.random.default_rng(0))
    assert tiny.size == (1, 1)


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_text_corruptions(name):
    post = text(3, 60) + " , an awful day ! so good . really ?"
    changes = []
    for severity in (1, 3, 5):
        bad, again = (TEXT_CORRUPTIONS[name](post, severity / 10, np.random.default_rng(1)) for _ in range(2))
        assert bad == again
        changes.append(sum(one != two for one, two in zip(bad.split(), post.split())) + abs(len(bad) - len(post)))
    assert 0 < changes[0] < changes[2]
    assert isinstance(TEXT_CORRUPTIONS[name]("", 0.5, np.random.default_rng(0)), str)


def test_a_split_of_one_post(run_config, tmp_path, capsys):
    """Evaluated, probed and rendered; nothing can be shuffled, so nothing is claimed."""

    def post(split: str, number: int) -> Record:
        return Record(f"{split}-{number}", text(number, 4), picture(number), ["no", "yes"][number % 2], {})

    data = make_dataset(tmp_path / "data", {"train": 12, "validation": 4, "test": 1}, post)
    run = train(
        run_config(data__path=str(data), loss__alignment_weight=0, train__epochs=1, output=str(tmp_path / "run"))
    )
    commands.evaluate(str(run), split="test")
    commands.probe(str(run), split="test")
    result = read_result(Probe, run / "probe.json")
    assert result.posts == 1
    assert result.emap.gain["accuracy"].value == 0
    assert "no evidence" in result.verdict
