"""What a prediction rests on: the word, and the part of the image, that the model reads."""

import io

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from clfa.cli import main
from clfa.config import ModalityConfig, ModelConfig
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.evidence.occlusion import SIDE, occlusion
from clfa.model.pipeline import Pipeline
from clfa.training.train import train


class Reader(Pipeline):
    """Sure of class 1 by the word "storm", and by red in the lower right corner."""

    def __init__(self):
        self.class_names = ["calm", "wild"]
        self.config = ModelConfig({name: ModalityConfig(name) for name in ("text", "image")})

    def prepare(self, post):
        return dict(post)

    def logits(self, rows, what=""):
        def logit(row):
            pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(float)
            corner = pixels[-10:, -10:]
            return 3.0 * ("storm" in row["text"]) + 2.0 * (corner[..., 0].mean() > corner[..., 1].mean() + 50)

        return torch.tensor([[0.0, logit(row)] for row in rows])

    def decide(self, scores):
        return scores.argmax(-1)


def test_the_word_and_the_corner_that_are_read():
    pixels = np.zeros((60, 90, 3), dtype=np.uint8) + 90
    pixels[-10:, -15:, 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    post = {"text": "a storm at sea", "image": {"bytes": buffer.getvalue(), "path": None}}
    found = occlusion(Reader(), post)
    assert found.predicted == "wild"
    assert found.probability == pytest.approx(1 / (1 + np.exp(-5)))
    assert found.words == ["a", "storm", "at", "sea"]
    without = np.log(1 / (1 + np.exp(-5))) - np.log(1 / (1 + np.exp(-2)))
    assert found.effects == pytest.approx([0, without, 0, 0])
    assert found.parts.shape == (SIDE, SIDE)
    assert np.argmax(found.parts) == SIDE * SIDE - 1
    assert (found.parts.ravel()[:-1] == 0).all()


def test_explain_works_for_runs_without_words_or_patches(run_config, dataset, tmp_path, capsys):
    config = run_config(
        loss__alignment_weight=0,
        train__epochs=1,
        model__fusion__name="concat",
        model__modalities__image__averaged=True,
    )
    run = train(config)
    post = load_split(dataset, "test")[2]
    command = ["explain", str(run), "--input", str(dataset), "--id", post["id"], "--output", str(tmp_path / "e.png")]
    assert main(command) == 0
    with Image.open(tmp_path / "e.png") as drawn:
        assert drawn.width > 500
    assert main([*command, "--by", "alignment"]) == 2
    assert "a heatmap needs a fusion" in capsys.readouterr().err
    with pytest.raises(UserError, match="has none of what the run reads"):
        occlusion(Pipeline.load(run), {"text": "", "image": None})
    alone = occlusion(Pipeline.load(run), {"text": "", "image": picture(1)})
    assert alone.words == []
    assert alone.parts is not None
