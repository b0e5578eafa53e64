"""A model is loaded as it was written, or not at all."""

import json
import os

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from clfa.cli import main
from clfa.data.seal import MANIFEST
from clfa.errors import UserError
from clfa.model.pipeline import Pipeline
from clfa.training.train import train


@pytest.fixture
def run(run_config):
    return train(run_config(train__epochs=1, loss__alignment_weight=0.0, model__modalities__image__frozen=True))


def test_every_changed_or_missing_file_is_refused(run, record_property):
    """Any byte of any file that the model is made of; each refusal names the file."""
    Pipeline.load(run)
    files = json.loads((run / MANIFEST).read_text())["files"]
    assert {"model.json", "model.safetensors", "text/config.json", "image/config.json"} <= files.keys()
    generator = np.random.default_rng(0)
    count = int(os.environ.get("CLFA_FAULTS", "60"))
    for _ in range(count):
        name = str(generator.choice(sorted(files)))
        path, fault = run / name, generator.integers(3)
        content = path.read_bytes()
        place = int(generator.integers(len(content)))
        if fault == 0:
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << generator.integers(8)]) + content[place + 1 :]
            )
        elif fault == 1:
            path.write_bytes(content[:place])
        else:
            path.unlink()
        with pytest.raises(UserError, match=name if name != "model.json" or fault < 2 else "no trained model"):
            Pipeline.load(run)
        path.write_bytes(content)
    Pipeline.load(run)
    record_property("corruptions", count)


def test_a_missing_tensor_and_a_missing_manifest_are_refused(run, capsys):
    tensors = load_file(run / "model.safetensors")
    tensors.pop(next(iter(tensors)))
    content = (run / "model.safetensors").read_bytes()
    save_file(tensors, run / "model.safetensors")
    assert main(["predict", str(run), "--text", "a"]) == 2
    said = capsys.readouterr().err
    assert "model.safetensors" in said
    assert "Traceback" not in said
    (run / "model.safetensors").write_bytes(content)
    manifest = (run / MANIFEST).read_text()
    for broken in ("", "{", manifest.replace('"layout": 1', '"layout": 99')):
        (run / MANIFEST).write_text(broken)
        with pytest.raises(UserError, match=r"manifest\.json"):
            Pipeline.load(run)
    (run / MANIFEST).write_text(manifest)
    Pipeline.load(run)
