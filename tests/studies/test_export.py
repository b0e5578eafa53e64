"""Exported models answer as the runs they are of, without PyTorch and transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DIM, picture, text
from PIL import Image
from servers import write_cues
from transformers import AutoImageProcessor

from clfa.config import FusionConfig, ModalityConfig, ModelConfig
from clfa.data.training_cues import CUES
from clfa.errors import UserError
from clfa.fusion import FUSIONS
from clfa.model.classifier import build_classifier
from clfa.serving.onnx import ImageReader, OnnxPipeline
from clfa.serving.predictor import Predictor
from clfa.studies.export import image_settings
from clfa.training.train import train

POSTS = [
    {"text": text(1), "image": picture(1)},
    {"text": text(2, 30), "image": None},
    {"text": "", "image": picture(3, (7, 90))},
    {"text": text(4), "knowledge": text(5), "image": picture(4)},
    {"text": "[SEP] [CLS] 喵", "image": picture(5, (1, 1))},
]


def export(*arguments, change="pass"):
    """`clfa export` in a process of its own: here the check of shapes would fix, in the graph, the number of posts."""
    code = f"{change}\nfrom clfa.cli import run\nrun()"
    done = subprocess.run([sys.executable, "-c", code, "export", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def proven(run, *options):
    code, _, said = export(run, *options)
    assert code == 0, said
    out = Path(options[1]) if options else run / "onnx"
    return json.loads((out / "export.json").read_text())


@pytest.fixture
def run(run_config):
    return train(run_config(train__epochs=1))


@pytest.mark.slow
def test_the_export_answers_without_torch_what_the_run_answers(run, tmp_path):
    write_cues(run)
    result = proven(run)
    assert (run / "onnx" / CUES).read_bytes() == (run / CUES).read_bytes()
    (run / "onnx" / CUES).unlink()  # it may be deleted: the model is loaded all the same
    assert result["compared"] == 500
    assert 0 < result["largest_difference"] <= 1e-4
    asked = {"text": text(1), "image": str(tmp_path / "post.png")}
    (tmp_path / "post.png").write_bytes(picture(1))
    code = (
        "import json, sys\n"
        "from clfa import Predictor\n"
        f"answer = Predictor({str(run)!r}, backend='onnx').one({asked!r})\n"
        "heavy = [name for name in ('torch', 'transformers', 'pyarrow', 'sklearn', 'scipy') if name in sys.modules]\n"
        "print(json.dumps([answer.probabilities, heavy]))\n"
    )
    probabilities, heavy = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not heavy
    assert probabilities == pytest.approx(Predictor(run).one(asked).probabilities, abs=1e-5)
    # the folder alone, on posts of all kinds
    ours, exported = Predictor(run), Predictor(run / "onnx")
    assert isinstance(exported.pipeline, OnnxPipeline)
    assert np.allclose(ours.predict_proba(POSTS), exported.predict_proba(POSTS), atol=1e-5)
    assert (ours.predict(POSTS) == exported.predict(POSTS)).all()
    for name, values in ours.embed(POSTS).items():
        assert np.allclose(values, exported.embed(POSTS)[name], atol=1e-4, equal_nan=True), name
    assert exported([{"text": "word1", "image": b"no image"}])[0].problem.startswith("image-format")
    manifest = json.loads((run / "onnx" / "manifest.json").read_text())
    assert {"opset", "onnxruntime", "torch"} <= manifest["made_with"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_is_exported(run_config, tmp_path, name):
    described = run_config(
        model__fusion=FusionConfig(name=name, layers=2, heads=2, feedforward=32).__dict__,
        model__modalities__knowledge={"kind": "text", "shares": "text", "max_length": 16, "align": False},
        loss__alignment_weight=0,
        train__epochs=1,
    )
    result = proven(train(described), "--out", tmp_path / "exported")
    assert result["largest_difference"] <= 1e-4
    ours, exported = Predictor(described.output), Predictor(tmp_path / "exported")
    assert np.allclose(ours.predict_proba(POSTS), exported.predict_proba(POSTS), atol=1e-5)


@pytest.mark.slow
def test_graphs_polarities_and_hashtags_are_read_without_torch(encoders, tmp_path):
    """Of a model without a run, and so without posts of its own to be compared on."""
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"word{n}\t{(n - 20) / 20}\n" for n in range(40)))
    knowledge = ModalityConfig("text", shares="text", graph="window", polarity=str(lexicon), max_length=16)
    modalities = {
        "text": ModalityConfig("text", str(encoders / "bert"), graph="dependencies", max_length=16),
        "image": ModalityConfig("image", str(encoders / "vit")),
        "knowledge": knowledge,
        "tags": ModalityConfig("text", shares="text", column="text", part="hashtags", max_length=16),
    }
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(modalities, DIM, 32, FusionConfig("cmgcn", 2, 2, 32)), ["no", "yes"])
    model.save_pretrained(tmp_path / "model")
    assert proven(tmp_path / "model", "--out", tmp_path / "exported")["posts_of"] == "generated"
    ours, exported = Predictor(tmp_path / "model"), Predictor(tmp_path / "exported")
    known = {"text": "word1 word39 #word7", "knowledge": "word2 word38", "dependencies": "2 0 2", "image": picture(7)}
    posts = [*POSTS, known]
    expected = ours.predict_proba(posts)
    assert np.allclose(expected, exported.predict_proba(posts), atol=1e-5)
    for column in ("dependencies", "knowledge"):  # what they know is read
        assert not np.allclose(expected[-1], exported.predict_proba([known | {column: None}])[0], atol=1e-6)


KINDS = {
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
    },
    "larger than the image": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 20},
        "crop_size": {"height": 33, "width": 32},
        "resample": 2,
    },
    "odd": {
        "image_processor_type": "BitImageProcessor",
        "do_resize": False,
        "size": {"shortest_edge": 20},
        "crop_size": {"height": 31, "width": 64},
    },
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 30, "width": 40},
        "crop_size": {"height": 29, "width": 29},
        "rescale_offset": True,
        "include_top": True,
        "rescale_factor": 1 / 127.5,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_resized_and_cut_to_the_bit_as_transformers_does(kind, tmp_path):
    settings = {
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
        "rescale_factor": 1 / 255,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | KINDS[kind]))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    (tmp_path / "image.json").write_text(json.dumps(image_settings(processor, "image")))
    read = ImageReader(tmp_path)
    for width, height in [(1, 1), (64, 7), (7, 64), (32, 32), (33, 36), (37, 37), (36, 41), (90, 50), (31, 64)]:
        pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        expected = processor(images=[image], return_tensors="np").pixel_values
        given = read([image])["pixel_values"]
        assert given.dtype == expected.dtype
        assert np.array_equal(given, expected), (width, height)


@pytest.mark.slow
def test_what_was_changed_or_exists_or_differs_is_refused(run, tmp_path):
    out = tmp_path / "out"
    code, printed, said = export(run, "--out", out, "--int8")
    assert code == 0, said
    assert "8 bit integers change" in printed
    assert json.loads((out / "export.json").read_text())["int8"]["rows"] == 8
    several = [{"text": f"word{number} " * number, "image": picture(number)} for number in range(1, 9)]
    exported = Predictor(out)
    alone = [list(exported.one(post).probabilities.values()) for post in several]
    np.testing.assert_allclose(exported.predict_proba(several), alone, atol=1e-6)  # whatever stands beside it
    code, _, said = export(run, "--out", out)
    assert (code, "exists" in said) == (2, True)
    image = out / "image" / "image.json"
    kept = image.read_text()
    image.write_text(kept.replace("0.5", "0.4"))
    with pytest.raises(UserError, match=r"image/image\.json"):
        Predictor(out)
    image.write_text(kept)
    assert Predictor(out).one(POSTS[0]).predicted in ("no", "yes")
    with pytest.raises(UserError, match="no exported model"):
        Predictor(tmp_path, backend="onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("onnx._normalised = lambda values, mean, std: values.astype('float32')", "pixel_values is not prepared as"),
        ("onnx.OnnxPipeline.output = lambda self, rows: Before(self, rows) + 2e-4", "differs from the run by 0.0002"),
        ("onnx.OnnxPipeline.decide = lambda self, scores: scores.argmin(-1)", "or in a label"),
    ],
)
def test_an_export_that_differs_leaves_nothing_behind(run, tmp_path, change, what):
    code, _, said = export(
        run,
        "--out",
        tmp_path / "out",
        change=f"from clfa.serving import onnx; Before = onnx.OnnxPipeline.output; {change}",
    )
    assert (code, what in said) == (2, True), said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial"))


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "datasets", "scipy", "sklearn", "pyarrow", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
from clfa.cli import run
run()
"""


@pytest.mark.slow
def test_the_small_install_answers_and_says_what_the_rest_needs(run, tmp_path):
    """What `pip install 'clfa[onnx]'` brings, by hiding all else."""

    def said(*arguments):
        done = subprocess.run([sys.executable, "-c", WITHOUT, *map(str, arguments)], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    proven(run)
    code, answer = said("predict", run / "onnx", "--text", "word1 word2")
    assert code == 0, answer
    assert "predicted: " in answer
    assert said("--help")[0] == 0
    for command in (("predict", run, "--text", "word1"), ("train", "--config", run / "config.yaml"), ("export", run)):
        code, answer = said(*command)
        assert code == 2
        assert "pip install 'clfa[train]'" in answer
        assert "Traceback" not in answer
