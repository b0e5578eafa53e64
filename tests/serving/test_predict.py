"""From a trained run to predictions: one post, files, missing images; nothing is lost."""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import DIM, make_dataset, picture, text

from clfa import Predictor
from clfa.cli import main
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.evidence.alignment import worst_errors
from clfa.evidence.evaluate import evaluate
from clfa.model import arithmetic
from clfa.model.arithmetic import has_bf16
from clfa.model.heatmap import alignment_heatmap, words_of
from clfa.model.pipeline import Pipeline
from clfa.report import figures
from clfa.report.page import write_evaluation
from clfa.runs import Run
from clfa.serving import files
from clfa.serving.files import predict_file
from clfa.training.train import train

COLUMNS = {name: name for name in ("text", "image", "knowledge")}


@pytest.fixture(scope="module")
def run(encoders, dataset, tmp_path_factory):
    """A trained tiny run, evaluated on test."""
    from dataclasses import replace

    from clfa.config import DataConfig, FusionConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig

    modalities = {
        "text": ModalityConfig("text", str(encoders / "bert"), max_length=16),
        "image": ModalityConfig("image", str(encoders / "vit")),
    }
    config = RunConfig(
        DataConfig(str(dataset)),
        ModelConfig(modalities, DIM, 32, FusionConfig(layers=1, heads=2, feedforward=32)),
        str(tmp_path_factory.mktemp("runs") / "run"),
        str(encoders / "clip"),
        train=TrainConfig(epochs=2, batch_size=6, head_learning_rate=1e-3),
    )
    path = train(replace(config))
    write_evaluation(Run(path), evaluate(path, "test"))
    return path


@pytest.fixture
def posts(tmp_path):
    """posts.csv with 12 rows: rows 3 and 7 name files that are missing or broken, row 5 has no image."""
    rows = []
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"id": f"9{number}", "text": text(number), "image": f"{number}.png", "note": "a, b"})
    (tmp_path / "3.png").unlink()
    (tmp_path / "7.png").write_bytes(b"broken")
    rows[5]["image"] = ""
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "posts.csv"


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predictor_takes_paths_bytes_and_images(run, tmp_path):
    from PIL import Image

    (tmp_path / "a.png").write_bytes(picture(1))
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), picture(1), Image.open(tmp_path / "a.png")]
    found = Predictor(run)([{"text": text(1), "image": form} for form in forms])
    assert found[0].predicted in ("no", "yes")
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-5)
    for other in found[1:]:  # rows of one batch differ in the last bit, so the sixth digit can
        assert other.predicted == found[0].predicted
        assert other.probabilities == pytest.approx(found[0].probabilities, abs=2e-6)
    assert Predictor(run)([]) == []
    with pytest.raises(UserError, match="no such file"):
        Predictor(run).one({"text": "x", "image": tmp_path / "none.png"})


def with_bf16():
    if not has_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no instructions for bf16")


def test_answers_in_bf16_are_those_of_autocast_with_smaller_weights(run, dataset):
    with_bf16()
    rows = list(load_split(dataset, "test"))
    whole = Pipeline.load(run)
    expected = Pipeline(whole.model, precision="bf16").logits(rows)
    pipelines = {precision: Predictor(run, precision=precision).pipeline for precision in ("fp32_by_bf16", "bf16")}
    assert torch.equal(pipelines["bf16"].logits(rows), expected)
    assert 0 < (expected - whole.logits(rows)).abs().max() < 0.05
    settings, seen = torch.backends.mkldnn.matmul, set()
    pipelines["fp32_by_bf16"].model.register_forward_pre_hook(lambda *_: seen.add(settings.fp32_precision))
    assert torch.allclose(pipelines["fp32_by_bf16"].logits(rows), whole.logits(rows), atol=1e-5)
    assert seen == {"bf16"} != {settings.fp32_precision}
    linear = [one for one in pipelines["bf16"].model.modules() if isinstance(one, torch.nn.Linear)]
    assert {one.weight.dtype for one in linear} == {torch.bfloat16}
    for name, embeds in pipelines["bf16"].embeds(rows).items():
        assert np.allclose(embeds, whole.embeds(rows)[name], atol=0.05, equal_nan=True)
    heatmap = Predictor(run, precision="bf16").alignment({"text": "word1 word2", "image": picture(1)})
    assert np.isfinite(heatmap.similarity).all()
    with pytest.raises(UserError, match="single precision"):
        pipelines["bf16"].cache(dataset, ["test"])
    with pytest.raises(UserError, match="'fp16': allowed are fp32, fp32_by_bf16, bf16"):
        arithmetic.available("fp16", torch.device("cpu"))


def test_without_instructions_for_bf16_answers_are_in_fp32_and_say_so(run, dataset, monkeypatch, caplog):
    monkeypatch.setattr(arithmetic, "has_bf16", lambda device: False)
    predictor, rows = Predictor(run, precision="bf16"), list(load_split(dataset, "test"))
    assert predictor.precision == "fp32"
    assert torch.equal(predictor.pipeline.logits(rows), Pipeline.load(run).logits(rows))
    assert caplog.text.count("no instructions for bf16") == 1


def test_another_precision_begins_a_file_anew(run, posts, tmp_path, monkeypatch):
    with_bf16()
    monkeypatch.setattr(files, "CHUNK", 2)
    monkeypatch.setattr(files, "SHARD", 1)
    add, stopped = files.Shards.add, []

    def stop(self, number, *rest):
        if number == 3:
            stopped.append(number)
            raise KeyboardInterrupt
        add(self, number, *rest)

    options = {"columns": COLUMNS, "on_bad": "mask"}
    monkeypatch.setattr(files.Shards, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_file(run, posts, tmp_path / "out.csv", **options)
    assert stopped
    monkeypatch.setattr(files.Shards, "add", add)
    predict_file(run, posts, tmp_path / "out.csv", **options, precision="bf16")
    command = ["predict", str(run), "--input", str(posts), "--output", str(tmp_path / "whole.csv")]
    assert main([*command, "--on-bad", "mask", "--precision", "bf16"]) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    predict_file(run, posts, tmp_path / "fp32.csv", **options)
    assert (tmp_path / "fp32.csv").read_bytes() != (tmp_path / "whole.csv").read_bytes()


def test_posts_of_any_form_are_answered_alike(run, dataset):
    """A list, an iterator, a DataFrame with gaps, a data set of `datasets`: in their order, past the end of a chunk."""
    import datasets
    import pandas as pd

    rows = load_split(dataset, "test")
    posts = [{"text": row["text"], "image": row["image"]["bytes"]} for row in rows] * 40
    posts[3], posts[5] = {"text": posts[3]["text"], "image": None}, {"text": None, "image": posts[5]["image"]}
    predictor = Predictor(run)
    expected = predictor(posts)
    assert len(expected) == len(posts) > 256
    for form in (iter(posts), pd.DataFrame(posts), datasets.Dataset.from_list(posts), tuple(posts)):
        for found, wanted in zip(predictor(form), expected, strict=True):
            assert found.predicted == wanted.predicted
            assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
    frame = pd.DataFrame({"text": ["word1", None, float("nan")], "image": [float("nan"), posts[0]["image"], None]})
    assert [found.problem for found in predictor(frame)] == ["", "", ""]
    with pytest.raises(UserError, match=r"no column that the run reads: it reads text, image.*the posts have sentence"):
        predictor(pd.DataFrame({"sentence": ["word1"]}))
    with pytest.raises(UserError, match=r"Predictor\.one"):
        predictor({"text": "word1"})
    assert predictor.one(posts[0]).probabilities == pytest.approx(expected[0].probabilities, abs=1e-5)


def test_a_post_that_cannot_be_read_has_a_problem_and_the_rest_an_answer(run, tmp_path):
    import pandas as pd
    from PIL import Image

    (tmp_path / "broken.png").write_bytes(picture(0)[:200])
    bad = [
        ({"text": "word1", "image": str(tmp_path / "none.png")}, "image-missing"),
        ({"text": "word1", "image": tmp_path / "broken.png"}, "image-damaged"),
        ({"text": "word1", "image": "https://example.org/a.png"}, "image-url"),
        ({"text": "word1", "image": 12}, "image-path"),
        ({"text": b"word1", "image": None}, "a text was expected"),
        ({"text": "word1", "image": "x" * 300}, "it cannot be read: OSError"),
        ({"text": "word1", "image": Image.new("RGB", (0, 0))}, "it cannot be read"),
        ({"text": pd.NA, "image": None}, "it cannot be read: TypeError"),
        ("word1", "a post is a mapping"),
    ]
    good = {"text": "word1 word2", "image": picture(1)}
    predictor = Predictor(run)
    posts = [good, *(post for post, _ in bad), good]
    found = predictor(posts)
    assert found[0] == found[-1] == predictor.one(good)
    for answer, (_, problem) in zip(found[1:-1], bad):
        assert answer.predicted is None
        assert answer.probabilities == {}
        assert answer.problem.startswith(problem)
    assert predictor.predict(posts).tolist() == [found[0].predicted, *[None] * len(bad), found[0].predicted]
    probabilities = predictor.predict_proba(posts)
    assert predictor.classes_.tolist() == ["no", "yes"]
    assert np.isnan(probabilities[1:-1]).all()
    np.testing.assert_allclose(probabilities[0], list(found[0].probabilities.values()), atol=1e-6)
    assert abs(probabilities[0].sum() - 1) < 1e-12
    embeds = predictor.embed(posts)
    assert {name: values.shape for name, values in embeds.items()} == {
        "text": (len(posts), DIM),
        "image": (len(posts), DIM),
    }
    assert np.isnan(embeds["text"][1:-1]).all()
    np.testing.assert_allclose(embeds["image"][0], embeds["image"][-1], atol=1e-6)
    assert predictor.predict_proba([]).shape == (0, 2)


def test_threads_share_a_predictor(run):
    """As many as a service has; answers are those of one thread."""
    predictor = Predictor(run)
    posts = [{"text": text(number, 3 + number), "image": picture(number)} for number in range(24)]
    expected = [predictor([post])[0] for post in posts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda post: predictor([post])[0], posts * 4)) == expected * 4


def test_predictor_cleans_text_as_in_training(run):
    predictor = Predictor(run)
    assert predictor([{"text": "word1  word2 "}]) == predictor([{"text": "word1 word2"}])


def test_prediction_equals_evaluation(run, dataset):
    rows = load_split(dataset, "test")
    table = Run(run).predictions("test")
    predicted, probabilities = table.predicted, table.probabilities
    assert table.ids == rows["id"]
    found = Predictor(run)([dict(row) for row in rows])
    assert [predictor.predicted for predictor in found] == [["no", "yes"][number] for number in predicted]
    assert [list(p.probabilities.values())[1] for p in found] == pytest.approx(probabilities[:, 1].tolist(), abs=2e-6)


def test_bad_images_fail_before_anything_is_predicted(run, posts, tmp_path):
    with pytest.raises(UserError) as error:
        predict_file(run, posts, tmp_path / "out.csv", COLUMNS)
    assert "2 of 12 posts" in str(error.value)
    assert "posts.csv:5: " in str(error.value)
    assert "posts.csv:9: " in str(error.value)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("on_bad", "predicted"), [("mask", 12), ("skip", 10)])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_row_comes_out_in_order(run, posts, tmp_path, on_bad, predicted, ending):
    output = tmp_path / f"out{ending}"
    counts = predict_file(run, posts, output, COLUMNS, on_bad=on_bad)
    assert counts == {"rows": 12, "predicted": predicted, "without_image": 1, "bad_images": 2, "bad_rows": 0}
    if ending == ".csv":
        rows = read_csv(output)
    elif ending == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == [f"9{number}" for number in range(12)]
    assert all(row["note"] == "a, b" for row in rows)
    assert [bool(row["problem"]) for row in rows] == [number in (3, 5, 7) for number in range(12)]
    assert rows[5]["problem"] == "no image"
    assert rows[5]["predicted"] in ("no", "yes")
    assert (rows[3]["predicted"] in ("no", "yes")) == (on_bad == "mask")


def test_masked_equals_text_without_image(run, posts, tmp_path):
    predict_file(run, posts, tmp_path / "out.jsonl", COLUMNS, on_bad="mask")
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[3])
    alone = Predictor(run)([{"text": row["text"], "image": None}])[0]
    assert row["probability_yes"] == pytest.approx(alone.probabilities["yes"], abs=2e-6)


def test_optional_columns_and_odd_values_come_through(run, tmp_path):
    lines = [
        {"id": 1, "text": 2024, "image": None},
        {"id": 2, "text": 2025, "image": None, "extra": {"a": 1}, "note": "x"},
    ]
    (tmp_path / "posts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for ending in (".parquet", ".csv", ".jsonl"):
        predict_file(run, tmp_path / "posts.jsonl", tmp_path / f"out{ending}", COLUMNS)
    import pyarrow.parquet as pq

    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["note"] for row in found] == [None, "x"]
    assert [row["text"] for row in found] == [2024, 2025]


def test_columns_whose_first_chunk_is_empty_or_mixed(run, tmp_path):
    """More rows than a chunk; a number after many empty cells, and numbers after texts."""
    import pyarrow.parquet as pq

    lines = [{"text": "word1", "image": "", "late": None, "mixed": "a"}] * 300
    lines.append({"text": "word1", "image": "", "late": 7, "mixed": 8})
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert predict_file(run, tmp_path / "posts.jsonl", tmp_path / "out.parquet", COLUMNS)["predicted"] == 301
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (found[0]["late"], found[-1]["late"], found[0]["mixed"], found[-1]["mixed"]) == (None, 7, "a", "8")


def test_transparent_image_in_memory_is_the_same_as_in_a_file(run, tmp_path):
    from PIL import Image

    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    found = Predictor(run)([{"text": "word1", "image": clear}, {"text": "word1", "image": tmp_path / "clear.png"}])
    assert found[0] == found[1]


def test_results_on_other_data_never_replace_the_runs_own(run, dataset, tmp_path):
    import shutil

    shutil.copytree(dataset, tmp_path / "other", ignore=shutil.ignore_patterns("states", "teachers"))
    before = json.loads((run / "metrics.json").read_text())["test"]
    found = evaluate(run, "test", dataset=str(tmp_path / "other"), evidence=False)
    assert found.split == "test@other"
    assert json.loads((run / "metrics.json").read_text())["test"] == before
    assert (run / "predictions" / "test@other.parquet").is_file()


def test_columns_that_the_run_reads_or_does_not_read_are_named(run_config, posts, tmp_path, caplog):
    knowledge = {"kind": "text", "shares": "text", "align": False}
    run = train(run_config(train__epochs=1, model__modalities__knowledge=knowledge))
    predict_file(run, posts, tmp_path / "out.csv", COLUMNS, on_bad="mask")
    assert "has no column 'knowledge', which" in caplog.text
    caplog.clear()
    predict_file(run, posts, tmp_path / "named.csv", {**COLUMNS, "knowledge": "note"}, on_bad="mask")
    assert "has no column" not in caplog.text
    with pytest.raises(UserError, match="reads no column 'foo'; it reads text, image, knowledge"):
        predict_file(run, posts, tmp_path / "no.csv", {**COLUMNS, "foo": "note"})


def test_refusals(run, posts, tmp_path):
    with pytest.raises(UserError, match="--image-column note"):
        predict_file(run, posts, tmp_path / "out.csv", {**COLUMNS, "image": "notes"})
    (tmp_path / "taken.csv").write_text("text,image,predicted\nword1,,yes\n")
    with pytest.raises(UserError, match="rename"):
        predict_file(run, tmp_path / "taken.csv", tmp_path / "out.csv", COLUMNS)
    (tmp_path / "there.csv").write_text("x")
    with pytest.raises(UserError, match="exists"):
        predict_file(run, posts, tmp_path / "there.csv", COLUMNS)
    with pytest.raises(UserError, match="unknown ending"):
        predict_file(run, posts, tmp_path / "out.xlsx", COLUMNS)
    with pytest.raises(UserError, match="--text-column"):
        predict_file(run, posts, tmp_path / "out.csv", {**COLUMNS, "text": "tweet"})


def test_evaluation_writes_table_metrics_and_report(run):
    import pyarrow.parquet as pq

    table = pq.read_table(run / "predictions" / "test.parquet")
    assert table.column_names == ["id", "label", "predicted", "probability_no", "probability_yes", "split", "run"]
    metrics = json.loads((run / "metrics.json").read_text())
    found = metrics["test"]
    assert found["rows"] == 8
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert set(found["floors"]) == {"majority", "format_only", "tfidf_logistic_regression", "teacher_svm"}
    assert found["floors"]["majority"]["accuracy"]["value"] == 0.5
    page = (run / "report-test.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/") >= 4


def test_report_escapes_what_users_wrote(run, tmp_path):
    import shutil
    from dataclasses import replace

    from clfa.evidence.results import Example, Illustrations
    from clfa.report.page import evaluations

    hostile = "<script>alert(1)</script>"
    copy = Run(shutil.copytree(run, tmp_path / "run"))
    found = evaluations(copy)["test"]
    shown = Illustrations(
        [Example(id=hostile, text=hostile, image=None, label=hostile, predicted=hostile, probability=0.9)]
    )
    page = write_evaluation(copy, replace(found, class_names=[hostile, "yes"], illustrations=shown)).read_text()
    assert "alert(1)" in page
    assert "<script>" not in page


def test_heatmap_is_cosine_of_words_and_patches(run, tmp_path):
    pipeline = Pipeline.load(run)
    post = {"text": "word1 word2 word3", "image": picture(3)}
    heatmap = alignment_heatmap(pipeline, post)
    assert heatmap.words == ["word1", "word2", "word3"]
    assert heatmap.similarity.shape == (3, 4, 4)
    output = pipeline.output([pipeline.prepare(post)])
    expected = torch.nn.functional.cosine_similarity(
        output.states["text"][0, 2], output.states["image"][0, 1 + 6], dim=0
    )
    assert heatmap.similarity[1, 1, 2] == pytest.approx(expected.item(), abs=1e-5)  # second word; row 1, column 2
    figures.save(figures.heatmap(heatmap), tmp_path / "heatmap.png")
    assert (tmp_path / "heatmap.png").stat().st_size > 5_000
    with pytest.raises(UserError, match="both a text and an image"):
        alignment_heatmap(pipeline, {"text": "word1", "image": None})


@pytest.mark.parametrize("kind", ["byte-level", "clip"])
def test_words_are_merged_by_the_marks_of_the_tokenizer(kind):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = {"end_of_word_suffix": "</w>"} if kind == "clip" else {}
    bpe = Tokenizer(models.BPE(**end))
    first = [pre_tokenizers.WhitespaceSplit()] if end else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*first, pre_tokenizers.ByteLevel(add_prefix_space=not end)])
    learnt = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>"], **end)
    bpe.train_from_iterator(["lovely café"], learnt)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")
    words, groups = words_of(tokenizer, "Lovely café very", 64)
    assert words == ["Lovely", "café", "very"]
    assert [place for group in groups for place in group] == list(
        range(len(tokenizer("Lovely café very")["input_ids"]))
    )


def test_worst_errors_come_first():
    import numpy as np

    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    assert worst_errors(np.array([1, 0, 1, 0]), probabilities.argmax(1), probabilities) == [0, 3, 1]


def test_commands_end_to_end(run, posts, dataset, tmp_path, capsys):
    def json_of(*arguments: str) -> dict:
        assert main([*arguments, "--json"]) == 0
        printed = capsys.readouterr().out
        assert printed.count("\n") == 1
        return json.loads(printed)

    one = json_of("predict", str(run), "--text", "word1 word2", "--image", str(tmp_path / "1.png"))
    assert set(one) == {"predicted", "probabilities", "problem"}
    many = json_of("predict", str(run), "--input", str(posts), "--output", str(tmp_path / "o.csv"), "--on-bad", "mask")
    assert many["rows"] == 12
    assert json_of("evaluate", str(run), "--split", "validation")["rows"] == 8
    heat = json_of("explain", str(run), "--input", str(dataset), "--id", "test-2", "--output", str(tmp_path / "h.png"))
    assert (tmp_path / "h.png").is_file()
    assert heat["predicted"] in ("no", "yes")
    assert main(["explain", str(run), "--input", str(posts), "--id", "nobody"]) == 2
    assert main(["predict", str(run), "--text", "x", "--input", "y"]) == 2


def test_prediction_needs_nothing_but_the_run(run, tmp_path):
    """In a fresh process, from another folder, with the run moved: no training set, no teacher, no encoder folders."""
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints", "predictions"))
    code = f"from clfa import Predictor; print(Predictor({str(moved)!r})([{{'text': 'word1'}}])[0].predicted)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("no", "yes")


def test_images_in_a_column_of_another_name_are_images_too(run_config, dataset, tmp_path):
    """Paths are beside the file and never outside of it; a missing one is a bad image, whatever its column is called."""
    posts = make_dataset(
        tmp_path / "photos",
        {"train": 12, "validation": 6},
        lambda split, n: Record(f"{split}{n}", text(n), picture(n), ["no", "yes"][n % 2]),
    )
    modalities = {"model__modalities__image": None, "loss__alignment_weight": 0, "train__epochs": 1}
    photo = {"kind": "image", "encoder": run_config().model.modalities["image"].encoder, "column": "image"}
    run = train(run_config(data__path=str(posts), **modalities, model__modalities__photo=photo))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(picture(1))
    (tmp_path / "in" / "posts.csv").write_text("text,shot\nword1,1.png\nword2,gone.png\n")
    columns = {**COLUMNS, "image": "shot"}
    with pytest.raises(UserError, match="1 of 2 posts"):
        predict_file(run, tmp_path / "in" / "posts.csv", tmp_path / "out.csv", columns)
    counts = predict_file(run, tmp_path / "in" / "posts.csv", tmp_path / "out.csv", columns, on_bad="mask")
    assert counts == {"rows": 2, "predicted": 2, "without_image": 0, "bad_images": 1, "bad_rows": 0}
    (tmp_path / "in" / "out.csv").write_text(f"text,shot\nword1,{tmp_path}/secret.png\n")
    with pytest.raises(UserError, match="lies outside"):
        predict_file(run, tmp_path / "in" / "out.csv", tmp_path / "out2.csv", columns)


def test_the_words_of_a_heatmap_are_those_that_the_model_reads(run_config):
    run = train(run_config(train__epochs=1, loss__alignment_weight=0, model__modalities__text__part="without_hashtags"))
    pipeline = Pipeline.load(run)
    assert alignment_heatmap(pipeline, {"text": "#word3 word1 word2", "image": picture(1)}).words == ["word1", "word2"]
    with pytest.raises(UserError, match="needs both a text and an image"):
        alignment_heatmap(pipeline, {"text": "#word3", "image": picture(1)})


def test_a_worker_that_does_not_see_the_folder_of_the_shards_says_so(run, tmp_path):
    from clfa.serving.files import open_worker
    from clfa.serving.output import Shards

    with pytest.raises(UserError, match="not on all machines of the cluster"):
        open_worker(run, "fp32", tmp_path / "posts.csv", {}, tmp_path, "mask", Shards(tmp_path / "out.csv", {}), {}, {})
