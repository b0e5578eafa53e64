"""Predictions that were stopped anywhere go on, and end with the same bytes: no row twice, none lost."""

import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hostile import write_hostile
from nursery import Nursery

import clfa.serving.files as files
import clfa.serving.output as output
from clfa.cli import main
from clfa.data.problems import PROBLEMS
from clfa.errors import UserError
from clfa.serving.files import predict_file, predict_files
from clfa.training.train import train

COLUMNS = {"text": "text", "image": "image"}


@pytest.fixture
def run(run_config):
    return train(run_config(train__epochs=1, loss__alignment_weight=0.0, model__modalities__image__frozen=True))


@pytest.fixture
def posts(tmp_path):
    """260 posts, some without an image, some with a bad one."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(number) if number < 4 else b"no image")
    path = tmp_path / "posts.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "image"])
        writer.writerows([n, f"word{n % 7} word{n % 3}", f"{n % 6}.png" if n % 6 < 5 else ""] for n in range(260))
    return path


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 20 rows."""
    monkeypatch.setattr(files, "CHUNK", 10)
    monkeypatch.setattr(files, "SHARD", 2)


class Killed(BaseException):
    """Nobody catches it."""


def counting_down(real, fuse):
    """`real`, until the fuse has burnt down."""

    def dies(*arguments, **options):
        fuse[0] -= 1
        if not fuse[0]:
            raise Killed
        return real(*arguments, **options)

    return dies


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_stopped_at_any_moment_the_output_is_the_same(run, posts, tmp_path, ending, small_shards):
    """Stopped 40 times, each time a little later: within a chunk, a shard, the counts, the merging."""
    whole, own = tmp_path / f"whole{ending}", tmp_path / f"own{ending}"
    counts = predict_file(run, posts, whole, COLUMNS, on_bad="mask")
    assert counts["rows"] == 260
    generator, stops = np.random.default_rng(0), 0
    while not own.exists():
        fuse = [int(generator.integers(1, 12)) if stops < 40 else 10**9]
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                (files.Predictor, "answer"),
                (output, "write_json"),
                (os, "replace"),
                (output.shutil, "copyfileobj"),
            ):
                patch.setattr(owner, name, counting_down(getattr(owner, name), fuse))
            try:
                again = predict_file(run, posts, own, COLUMNS, on_bad="mask")
            except Killed:
                stops += 1
    assert stops >= 10
    assert again == counts
    assert own.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f"own{ending}.shards").exists()


def test_finished_shards_are_not_predicted_again(run, posts, tmp_path, small_shards, monkeypatch):
    calls = []
    real = files.Predictor.answer

    def answer(self, rows):
        calls.append(len(rows))
        if len(calls) == 9:
            raise Killed
        return real(self, rows)

    monkeypatch.setattr(files.Predictor, "answer", answer)
    with pytest.raises(Killed):
        predict_file(run, posts, tmp_path / "out.csv", COLUMNS, on_bad="mask")
    predict_file(run, posts, tmp_path / "out.csv", COLUMNS, on_bad="mask")
    assert sum(calls) == 260 + 10, "the chunk that was being predicted, again; no other"


def test_another_source_begins_anew(run, posts, tmp_path, small_shards, monkeypatch, caplog):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            predict_file(run, posts, tmp_path / "out.csv", COLUMNS, on_bad="mask")
    (tmp_path / "out.csv").unlink()
    with open(posts, "a") as file:
        file.write("260,word1,\n")
    counts = predict_file(run, posts, tmp_path / "out.csv", COLUMNS, on_bad="mask")
    assert counts["rows"] == 261
    assert "is of another run, source or option" in caplog.text


def test_lines_that_are_no_rows_are_counted_or_answered_empty(run, tmp_path, capsys):
    path = tmp_path / "posts.jsonl"
    path.write_bytes(
        b'{"text": "word1", "image": ""}\n{"text": \n{"text": "sch\xf6n", "image": ""}\n{"text": "word2", "image": ""}\n'
    )
    assert main(["predict", str(run), "--input", str(path), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "2 of 4 posts" in capsys.readouterr().err
    counts = predict_file(run, path, tmp_path / "out.jsonl", COLUMNS, on_bad="skip")
    assert counts == {"rows": 4, "predicted": 2, "without_image": 2, "bad_images": 0, "bad_rows": 2}
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["predicted"] is None for line in lines] == [False, True, True, False]
    assert lines[1]["problem"].startswith("file-unreadable: ")


def test_the_hostile_corpus_is_predicted_and_explained(run, tmp_path, capsys):
    """Every row an answer or a problem; what cannot be explained is refused in words."""
    expected = write_hostile(tmp_path / "posts")
    source = tmp_path / "posts" / "posts.jsonl"
    counts = predict_file(run, source, tmp_path / "out.jsonl", COLUMNS, on_bad="mask")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert counts["rows"] == len(lines) == len(expected) + 1  # an id twice
    image_errors = {code for code in PROBLEMS if code.startswith("image-") and PROBLEMS[code].severity == "error"}
    for line in lines:
        code = expected.get(line["id"], "file")
        bad_row = code.startswith("file") or code == "knowledge-heads"
        assert bool(line["problem"]) == (bad_row or code in image_errors), (line["id"], line["problem"])
        if line["problem"]:
            said = line["problem"].partition(":")[0]
            assert said == code if code != "file" else said.startswith("file-"), (line["id"], line["problem"])
        assert (line["predicted"] is None) == bad_row
    for ending in (".csv", ".parquet"):
        assert predict_file(run, source, tmp_path / f"out{ending}", COLUMNS, on_bad="mask") == counts
    for id in ("image cmyk.jpg", "image sixteen-bit.png", "text special tokens", "image bomb.png", "path 0"):
        arguments = ["explain", str(run), "--input", str(source), "--id", id, "--output", str(tmp_path / "x.png")]
        code = main(arguments)
        said = capsys.readouterr().err
        assert code == (2 if expected[id] else 0), (id, said)
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_processes_killed_at_random_moments(run, posts, tmp_path, record_property):
    """8 real kills here, 50 with `make faults`."""
    nursery = Nursery(tmp_path / "said.txt", "import clfa.serving.files as files; files.CHUNK, files.SHARD = 4, 2")

    def start(name: str) -> int:
        arguments = ["predict", str(run), "--input", str(posts), "--output", str(tmp_path / name), "--on-bad", "mask"]
        return nursery.start(*arguments)

    child, begun = start("whole.csv"), time.monotonic()
    assert nursery.end(child) == 0, nursery.said()
    seconds = time.monotonic() - begun
    generator, kills, rounds = np.random.default_rng(0), 0, 0
    while kills < int(os.environ.get("CLFA_KILLS", "32")) // 4:
        rounds += 1
        name = f"own{rounds}.csv"
        while not (tmp_path / name).exists():
            kills += nursery.end(start(name), generator.uniform(0, seconds)) == -9
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(Path(tmp_path).glob("*.partial"))
    nursery.close()
    record_property("SIGKILL", kills)


def test_files_of_a_folder_or_a_pattern_each_once(run, tmp_path, capsys):
    (tmp_path / "days").mkdir()
    for day in range(4):
        lines = [f"word{number},,{day}" for number in range(day + 1)]
        (tmp_path / "days" / f"{day}.csv").write_text("\n".join(["text,image,day", *lines]) + "\n")
    (tmp_path / "days" / "notes.txt").write_text("no posts")
    command = ["predict", str(run), "--input", str(tmp_path / "days" / "[0-2].csv"), "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="choose another folder"):
        predict_files(run, str(tmp_path / "days"), tmp_path / "days", COLUMNS)
    (tmp_path / "days" / "below").mkdir()
    (tmp_path / "days" / "below" / "0.csv").write_text("text,image\nword1,\n")
    with pytest.raises(UserError, match=r"several files are called 0\.csv"):
        predict_files(run, str(tmp_path / "days" / "**" / "*.csv"), tmp_path / "out", COLUMNS)
    with pytest.raises(UserError, match="names no file of posts"):
        predict_files(run, str(tmp_path / "days" / "*.tsv"), tmp_path / "out", COLUMNS)
    assert main([*command, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["files"], counts["finished_before"], counts["rows"], counts["predicted"]) == (3, 0, 6, 6)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["0.csv", "1.csv", "2.csv"]
    # one more file has come, one output is gone: nothing else is done again
    (tmp_path / "out" / "1.csv").unlink()
    counts = predict_files(run, str(tmp_path / "days"), tmp_path / "out", COLUMNS)
    assert (counts["files"], counts["finished_before"], counts["rows"]) == (4, 2, 6)
    again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name: again[name] for name in written} == written
    predict_file(run, tmp_path / "days" / "3.csv", tmp_path / "alone.csv", COLUMNS)
    assert again["3.csv"] == (tmp_path / "alone.csv").read_bytes()
