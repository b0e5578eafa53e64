"""A run through Hugging Face's classes: the same logits to the bit, offline, in a fresh process, without code of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import picture, text

from clfa.errors import UserError
from clfa.model.pipeline import Pipeline

POSTS = [{"text": text(n, 1 + n % 9) if n % 5 else None, "image": picture(n) if n % 3 else None} for n in range(1, 13)]
FRESH = """
import json, sys
sys.path.insert(0, "tests")
import clfa.serving.hub, torch
from test_hub import POSTS
from transformers import AutoModelForSequenceClassification, AutoProcessor, pipeline
run = sys.argv[1]
with torch.no_grad():
    logits = AutoModelForSequenceClassification.from_pretrained(run)(**AutoProcessor.from_pretrained(run)(POSTS)).logits
answers = pipeline("post-classification", model=run)(POSTS, top_k=2)
print(json.dumps([logits.tolist(), answers]))
"""


def expected(run):
    pipeline = Pipeline.load(run)
    with torch.no_grad():
        return pipeline.output([pipeline.prepare(post) for post in POSTS]).logits


def test_auto_classes_and_pipeline_in_a_fresh_process_offline(run):
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(run)],
        env=os.environ | offline | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits, answers = json.loads(done.stdout.splitlines()[-1])
    assert torch.equal(torch.tensor(logits), expected(run))  # to the bit
    for answer, row in zip(answers, expected(run).double().softmax(1), strict=True):
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(
            dict(zip(("no", "yes"), row.tolist())), abs=1e-5
        )
        assert answer[0]["score"] >= answer[1]["score"]


def test_a_blend_and_a_probe_go_the_same_way(tmp_path, run_config, run):
    from transformers import AutoModelForSequenceClassification, AutoProcessor

    import clfa.serving.hub  # noqa: F401
    from clfa.config import ProbeConfig
    from clfa.model.blend import Blend
    from clfa.model.classifier import Classifier
    from clfa.training.train import train

    frozen = {"model__modalities__text__frozen": True, "model__modalities__image__frozen": True}
    probe = train(
        run_config(**frozen, model__probe=ProbeConfig(), loss__alignment_weight=0, output=str(tmp_path / "probe"))
    )
    members = {"simple": Classifier.from_pretrained(probe), "network": Classifier.from_pretrained(run)}
    Blend(members, [0.0, 0.5]).save_pretrained(tmp_path / "blend")
    for folder in (probe, tmp_path / "blend"):
        model, processor = (
            AutoModelForSequenceClassification.from_pretrained(folder),
            AutoProcessor.from_pretrained(folder),
        )
        with torch.no_grad():
            assert torch.equal(model(**processor(POSTS)).logits, expected(folder))
        assert model.config.id2label == {0: "no", 1: "yes"}


class Hub:
    """Stands for a hub: keeps what is uploaded."""

    def __init__(self, folder):
        self.folder, self.repositories = folder, []

    def create_repo(self, repo_id, private, exist_ok):
        self.repositories.append((repo_id, private))
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id, folder_path, revision, commit_message):
        shutil.copytree(folder_path, self.folder)


def test_what_is_saved_again_is_the_run_and_nothing_is_pushed_unasked(run, tmp_path, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    import clfa.serving.hub as module
    from clfa.model.blend import Blend
    from clfa.model.classifier import Classifier

    hub = Hub(tmp_path / "pushed")
    monkeypatch.setattr(module, "HfApi", lambda token: hub)
    Blend({"one": Classifier.from_pretrained(run), "two": Classifier.from_pretrained(run)}).save_pretrained(
        tmp_path / "blend"
    )
    (tmp_path / "blend" / "README.md").write_text("# a card")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "blend")
    model.save_pretrained(tmp_path / "again")
    assert not hub.repositories
    assert (tmp_path / "again" / "README.md").read_text() == "# a card"
    assert torch.equal(expected(tmp_path / "again"), expected(tmp_path / "blend"))
    assert model.push_to_hub("somebody/again", private=True) == "https://hub/somebody/again"
    assert hub.repositories == [("somebody/again", True)]
    assert (tmp_path / "pushed" / "README.md").read_text() == "# a card"
    assert torch.equal(expected(tmp_path / "pushed"), expected(tmp_path / "blend"))


def test_the_processor_takes_texts_and_images_beside_each_other(run):
    from transformers import AutoProcessor

    from clfa.serving.hub import ClfaForSequenceClassification

    processor = AutoProcessor.from_pretrained(run)
    pairs = processor(text=["a b", "c"], images=[picture(1), picture(2)])
    posts = processor([{"text": "a b", "image": picture(1)}, {"text": "c", "image": picture(2)}])
    assert pairs.keys() == posts.keys()
    assert all(torch.equal(pairs[name], posts[name]) for name in pairs)
    for alone in (processor(text="a b"), processor("a b"), processor({"text": "a b"})):
        assert alone["image.present"].tolist() == [False]
    with pytest.raises(UserError, match="found int"):
        processor([7])
    for wrong in ({}, {"text": ["a", "b"], "images": [picture(1)]}):
        with pytest.raises(UserError, match="as many"):
            processor(**wrong)
    model = ClfaForSequenceClassification.from_pretrained(run)
    with pytest.raises(UserError, match="'b'"):
        model(b=1)


def test_a_run_with_a_changed_byte_is_refused(run):
    from transformers import AutoModelForSequenceClassification

    from clfa.serving.hub import ClfaForSequenceClassification

    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(run)
    with pytest.raises(UserError, match="no such model folder"):
        ClfaForSequenceClassification.from_pretrained(run.parent / "none", local_files_only=True)
