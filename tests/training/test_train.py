"""Training: learns, selects on validation, resumes exactly, never opens test."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import DIM, make_dataset
from hostile import write_hostile
from safetensors.torch import load_file

import clfa.model.arithmetic as arithmetic
import clfa.training.train as training
from clfa.commands import import_table
from clfa.config import TrainConfig
from clfa.data.images import open_image
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.evidence.evaluate import evaluate
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.serving.predictor import Predictor
from clfa.training.checkpoint import newest_whole
from clfa.training.optimizer import learning_rate, parameter_groups
from clfa.training.sampler import LengthBuckets
from clfa.training.setup import set_up
from clfa.training.train import train


def read_log(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_run_directory(run_config):
    run = train(run_config())
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "model.safetensors",
        "model.json",
        "log.jsonl",
        "metrics.json",
        "environment.json",
        "text",
        "image",
    }
    assert not (run / "checkpoints").exists()  # nothing goes on from there
    lines = read_log(run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"loss", "classification_loss", "alignment_loss_text", "alignment_loss_image"} <= set(lines[0])
    trained = json.loads((run / "metrics.json").read_text())["training"]
    best = min(line["validation"]["nll"] for line in lines)
    assert trained["best_validation_nll"] == best
    assert lines[trained["best_epoch"] - 1]["validation"]["nll"] == best


def test_saved_model_is_the_best_epoch(run_config):
    run = train(run_config(train__monitor="macro_f1"))
    trained = json.loads((run / "metrics.json").read_text())["training"]
    found = evaluate(run, "validation", evidence=False)
    assert found.metrics["macro_f1"].value == pytest.approx(trained["best_validation_macro_f1"], abs=1e-12)


def test_same_seed_same_bytes_whatever_is_cached(run_config, encoders, dataset, tmp_path):
    """The teacher is loaded in the first run only; what that draws from the random generator must not tell."""
    import shutil

    from clfa.config import CaptionSource, TeacherConfig
    from clfa.model.encoders import load_encoder
    from clfa.model.teacher import DualEncoder

    text, image = load_encoder(str(encoders / "bert"), "text"), load_encoder(str(encoders / "vit"), "image")
    sources = [CaptionSource(dataset=str(dataset))]
    described = TeacherConfig(sources, "", "", "", dim=DIM, projection_hidden=16)
    (tmp_path / "teacher").mkdir()
    DualEncoder(text, image, described).save_pretrained(tmp_path / "teacher")
    copy = shutil.copytree(dataset, tmp_path / "copy", ignore=shutil.ignore_patterns("teachers", "states"))
    runs = [
        train(run_config(data__path=str(copy), teacher=str(tmp_path / "teacher"), output=str(tmp_path / name)))
        for name in ("first", "second")
    ]
    first, second = ((run / "model.safetensors").read_bytes() for run in runs)
    assert first == second


@pytest.mark.slow
def test_overfits_eight_posts(run_config):
    config = run_config(
        data__train_rows=8,
        train__epochs=60,
        train__patience=60,
        train__batch_size=8,
        train__head_learning_rate=3e-3,
        model__dropout=0.0,
        model__fusion__dropout=0.0,
        train__schedule="constant",
    )
    run = train(config)
    assert read_log(run)[-1]["classification_loss"] < 0.02


def test_test_split_is_never_opened(run_config, dataset, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns("states", "teachers", "hashes", "features", "keys"))
    (copy / "test.parquet").write_bytes(b"not a parquet file: opening it would raise")
    run = train(run_config(data__path=str(copy), model__modalities__text__frozen=True))
    assert (run / "metrics.json").is_file()
    assert not list(copy.rglob("*test*.npy"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__modalities__image__frozen": True, "train__accumulation": 3},
        {"train__average": 0.9, "loss__alignment_weight": 0},
    ],
)
def test_resume_equals_uninterrupted(run_config, checkpoints_stay, tmp_path, monkeypatch, changes):
    whole = train(run_config(**changes, output=str(tmp_path / "whole")))
    save, calls = training.save_checkpoint, []

    def save_then_die(*arguments):
        save(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", save_then_die)
    config = run_config(**changes, output=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(training, "save_checkpoint", save)
    with pytest.raises(UserError, match="--resume"):
        train(config)
    resumed = train(config, resume=True)
    ours, theirs = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for file in ("model.safetensors", "average.safetensors")[: 1 + ("train__average" in changes)]:
        ours, theirs = (load_file(newest_whole(run / "checkpoints") / file) for run in (whole, resumed))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    drop = ("examples_per_second",)
    strip = [[{k: v for k, v in line.items() if k not in drop} for line in read_log(run)] for run in (whole, resumed)]
    assert strip[0] == strip[1]


def test_same_seed_same_bytes_other_seed_not(run_config, tmp_path):
    runs = [
        train(run_config(output=str(tmp_path / name), seed=seed, train__epochs=1))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    first, second, third = ((run / "model.safetensors").read_bytes() for run in runs)
    assert first == second
    assert first != third


@pytest.mark.slow
def test_the_reported_scores_are_those_of_a_fresh_process(run_config, tmp_path):
    """Logits of both, from the saved run alone; they differ by 0.0."""
    run = train(run_config())
    reported = evaluate(run, "test", evidence=False)
    rows = load_split(run_config().data.path, "test")
    here = Pipeline.load(run).logits(rows)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from clfa.data.rows import load_split; from clfa.model.pipeline import Pipeline\n"
        "from clfa.evidence.evaluate import evaluate; from clfa.evidence.results import write_result\n"
        "from pathlib import Path; run, data, out = sys.argv[1:]\n"
        "torch.save(Pipeline.load(run).logits(load_split(data, 'test')), out + '/logits')\n"
        "write_result(Path(out, 'again.json'), evaluate(run, 'test', evidence=False))"
    )
    subprocess.run([sys.executable, "-c", code, str(run), run_config().data.path, str(tmp_path)], check=True)
    assert (torch.load(tmp_path / "logits") - here).abs().max() == 0.0
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: score["value"] for name, score in again["metrics"].items()} == {
        name: score.value for name, score in reported.metrics.items()
    }


def test_deterministic_refuses_what_cannot_be_repeated(run_config, tmp_path, monkeypatch):
    whole = train(run_config(output=str(tmp_path / "whole"), train__deterministic=True))
    same = train(run_config(output=str(tmp_path / "same")))
    assert (whole / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
    real = training.loss_terms

    def unrepeatable(*arguments):
        torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))
        return real(*arguments)

    monkeypatch.setattr(training, "loss_terms", unrepeatable)
    with pytest.raises(UserError, match=r"train\.deterministic: put_ does not have a deterministic implementation"):
        train(run_config(output=str(tmp_path / "refused"), train__deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
    train(run_config(output=str(tmp_path / "not asked"), train__epochs=1))


def test_the_hostile_corpus_is_trained_on(run_config, tmp_path):
    """All of it that can be used, images that cannot left out."""
    write_hostile(tmp_path / "hostile")
    source = str(tmp_path / "hostile" / "posts.jsonl")
    import_table(
        source, out=str(tmp_path / "data"), images=str(tmp_path / "hostile"), rare="train", max_bad=1.0, on_bad="skip"
    )
    config = run_config(data__path=str(tmp_path / "data"), train__epochs=1, train__monitor="nll")
    run = train(config)
    assert read_log(run)[0]["loss"] == pytest.approx(read_log(run)[0]["loss"])
    assert evaluate(run, "validation", evidence=False).rows > 0


def test_cached_states_give_the_same_model_output(run_config, tmp_path):
    """A frozen encoder read from the cache is the frozen encoder run on the fly."""
    config = run_config(model__modalities__text__frozen=True, model__modalities__image__frozen=True)
    run = train(config)
    evaluate(run, "test", evidence=False)
    cached = Run(run).predictions("test").probabilities
    rows = load_split(config.data.path, "test")
    fresh = Predictor(run)([dict(row) for row in rows])
    for number, prediction in enumerate(fresh):
        assert list(prediction.probabilities.values()) == pytest.approx(
            cached[number].tolist(), abs=2e-3
        )  # half precision


def test_early_stopping(run_config):
    run = train(
        run_config(
            train__epochs=30, train__patience=2, train__head_learning_rate=0.0, train__encoder_learning_rate=0.0
        ),
    )
    assert len(read_log(run)) == 3  # the first epoch is the best, then two without a better one


def test_finished_and_changed_runs(run_config, caplog):
    config = run_config(train__epochs=1)
    run = train(config)
    before = (run / "model.safetensors").stat().st_mtime_ns
    caplog.clear()
    with caplog.at_level("INFO", "clfa"):
        train(config)
    assert caplog.messages == [f"{run}: already finished"]
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"loss\.temperature"):
        train(run_config(train__epochs=1, loss__temperature=0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "there is no teacher"),
        ({"model__modalities__text__part": "without_hashtags"}, "'text' is a part of a text"),
        ({"model__dim": 24, "model__fusion__heads": 2}, "set model.dim to 32"),
        ({"train__monitor": "f1"}, "macro_f1"),
        ({"data__train_rows": 1000}, "between"),
        ({"data__path": "nowhere"}, "clfa import"),
        ({"train__epochs": 0}, r"train\.epochs = 0: allowed is at least 1"),
        ({"model__dropout": 1.5}, r"model\.dropout = 1\.5: allowed is at least 0 and at most 0\.999"),
        ({"train__head_learning_rate": -1.0}, r"head_learning_rate"),
        ({"train__average": 1.0}, r"train\.average = 1\.0"),
        ({"train__modality_dropout": 1.5}, r"train\.modality_dropout = 1\.5: allowed is at least 0 and at most 1"),
        ({"model__modalities__text__max_length": 1}, "at least 3"),
    ],
)
def test_mistakes_are_told(run_config, changes, message):
    with pytest.raises(UserError, match=message):
        train(run_config(**changes))


def test_a_failed_start_does_not_block_the_corrected_one(run_config):
    with pytest.raises(UserError, match=r"set model\.dim"):
        train(run_config(model__dim=24, train__epochs=1))
    assert train(run_config(train__epochs=1))


def test_a_modality_that_no_post_has_is_told(run_config, tmp_path):
    def post(split: str, number: int) -> Record:
        return Record(f"{split}{number}", "word1", None, "ab"[number % 2])

    make_dataset(tmp_path / "texts", {"train": 4, "validation": 4}, post, images="none")
    for frozen in (True, False):
        with pytest.raises(UserError, match="no training post"):
            train(run_config(data__path=str(tmp_path / "texts"), model__modalities__image__frozen=frozen))


def test_diverging_loss_is_told(run_config):
    with pytest.raises(UserError, match="learning_rate"):
        train(run_config(train__head_learning_rate=1e30, train__clip=1e30, train__warmup=0.0))


def test_without_instructions_for_bf16_it_is_fp32(run_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(arithmetic, "has_bf16", lambda device: False)
    settings = {"train__epochs": 1, "loss__alignment_weight": 0}
    runs = [
        train(run_config(**settings, train__precision=precision, output=str(tmp_path / precision)))
        for precision in ("bf16", "fp32")
    ]
    weights = [load_file(run / "model.safetensors") for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert caplog.text.count("no instructions for bf16") == 1


def test_bf16_and_tensorboard(run_config):
    run = train(run_config(train__precision="bf16", train__tensorboard=True, train__epochs=1))
    assert list((run / "tensorboard").iterdir())
    assert torch.isfinite(torch.tensor(read_log(run)[0]["loss"]))


def test_parameter_groups_cover_all_once(run_config, encoders):
    from clfa.model.classifier import build_classifier

    model = build_classifier(run_config().model, ["no", "yes"])
    groups = parameter_groups(model, TrainConfig(encoder_learning_rate=1.0, head_learning_rate=2.0))
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    encoder_ids = {id(parameter) for parameter in model.encoders.parameters()}
    for group in groups:
        assert all((id(parameter) in encoder_ids) == (group["peak"] == 1.0) for parameter in group["params"])
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])


def test_schedules():
    linear, cosine = (TrainConfig(warmup=0.1, schedule=name) for name in ("linear", "cosine"))
    assert [learning_rate(step, 100, linear) for step in (0, 9, 10, 55, 99)] == pytest.approx([0.1, 1, 1, 0.5, 1 / 90])
    assert learning_rate(55, 100, cosine) == pytest.approx(0.5)
    assert learning_rate(99, 100, TrainConfig(schedule="constant")) == 1


def test_length_buckets_serve_each_row_once_and_differ_by_epoch():
    lengths = [number * 7 % 50 for number in range(103)]
    buckets = LengthBuckets(lengths, 8, seed=0)
    first = list(buckets)
    assert sorted(number for batch in first for number in batch) == list(range(103))
    assert len(first) == len(buckets)
    assert list(buckets) == first
    buckets.set_epoch(1)
    assert list(buckets) != first
    spread = [max(lengths[n] for n in batch) - min(lengths[n] for n in batch) for batch in first]
    assert sum(spread) / len(spread) < 10  # of 50: neighbours in length share a batch


@pytest.mark.parametrize("monitor", ["nll", "auroc"])
def test_any_metric_can_choose_the_epoch(run_config, monitor):
    run = train(run_config(train__monitor=monitor))
    values = [line["validation"][monitor] for line in read_log(run)]
    trained = json.loads((run / "metrics.json").read_text())["training"]
    best = min(values) if monitor == "nll" else max(values)
    assert trained[f"best_validation_{monitor}"] == best == values[trained["best_epoch"] - 1]


def test_texts_longer_than_the_encoder_reads_are_cut_to_it(run_config):
    """The encoder has 64 positions, the default is 77 tokens: a long text is predicted, not a crash."""
    run = train(run_config(train__epochs=1, model__modalities__text__max_length=77))
    described = json.loads((run / "model.json").read_text())["model"]["modalities"]["text"]
    assert described["max_length"] == 64
    assert Predictor(run)([{"text": "word1 " * 200}])[0].predicted in ("no", "yes")


def test_each_modality_meets_its_own_teacher_embedding(run_config, encoders):
    """What the batches of a run hold is what CLIP itself makes of each post's text, and of its image."""
    from transformers import AutoTokenizer, CLIPModel, ViTImageProcessorPil

    setup = set_up(run_config())
    rows = setup.rows[1:4]  # the first has no image
    batch = setup.batches.collate_fn(list(rows))
    clip, folder = CLIPModel.from_pretrained(encoders / "clip").eval(), encoders / "clip"
    words = AutoTokenizer.from_pretrained(folder)(
        [row["text"].lower() for row in rows], padding=True, return_tensors="pt"
    )
    images = [open_image(row["image"]["bytes"]) for row in rows]
    pixels = ViTImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.no_grad():
        expected = {
            "text": clip.get_text_features(words["input_ids"], words["attention_mask"]).pooler_output,
            "image": clip.get_image_features(pixels["pixel_values"]).pooler_output,
        }
    assert not torch.allclose(expected["text"], expected["image"], atol=1e-2)
    for name, embeds in expected.items():
        assert torch.allclose(batch.modalities[name].teacher_embeds, embeds, atol=2e-3), name  # kept in half precision


def test_a_signal_that_comes_while_a_checkpoint_is_written_is_not_lost(run_config, monkeypatch):
    """It ends the training after the next step."""
    real, saved, steps = training._save, [], []
    between = training._between_steps

    def save(*arguments):
        saved.append(1)
        if len(saved) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    def counted(*arguments):
        steps.append(1)
        between(*arguments)

    monkeypatch.setattr(training, "_save", save)
    monkeypatch.setattr(training, "_between_steps", counted)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)
    with pytest.raises(SystemExit) as ended:
        train(run_config())
    assert ended.value.code == 143
    assert len(steps) == 2
