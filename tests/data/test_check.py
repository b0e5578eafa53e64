"""`clfa check`: every problem of a source at once, and the same judgement at import, in prediction and in explanation."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, needs_shared
from hostile import encoded, write_hostile
from test_readers import save, write_mvsa, write_posts

from clfa.cli import main
from clfa.commands import import_table
from clfa.data.check import check
from clfa.data.images import open_image
from clfa.data.problems import PROBLEMS
from clfa.data.rows import load_split
from clfa.errors import UserError

REPEATED = "plain 118"


def found(source, out, **options) -> list[tuple[str, str]]:
    """(id or place, code) of all problems."""
    result = check(source, out / "problems.jsonl", **options)
    lines = [json.loads(line) for line in (out / "problems.jsonl").read_text().splitlines()]
    assert sum(result.counts.values()) == len(lines) == result.errors + result.warnings
    return [(line["id"] or Path(line["where"]).name, line["code"]) for line in lines]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "posts"
    return folder, write_hostile(folder)


def test_the_hostile_corpus_is_judged_as_expected(hostile, tmp_path):
    folder, expected = hostile
    assert len(expected) > 120
    wanted = [(place, code) for place, code in expected.items() if code]
    wanted += [(REPEATED, "id-repeated"), ("posts.jsonl", "label-rare"), ("posts.jsonl", "label-alike")]
    assert sorted(found(folder / "posts.jsonl", tmp_path)) == sorted(wanted)


def test_the_hostile_corpus_is_imported_without_what_is_bad(hostile, tmp_path):
    folder, expected = hostile
    arguments = {"images": str(folder), "rare": "train", "max_bad": 1.0}
    with pytest.raises(UserError, match="posts cannot be used, nothing was imported"):
        import_table(str(folder / "posts.jsonl"), out=str(tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()
    manifest = import_table(str(folder / "posts.jsonl"), out=str(tmp_path / "out"), on_bad="skip", **arguments)
    errors = [place for place, code in expected.items() if code and PROBLEMS[code].severity == "error"]
    assert manifest["dropped"] == len(errors) + 1  # an id twice
    kept = [id for split in manifest["splits"] for id in load_split(tmp_path / "out", split)["id"]]
    assert sorted(kept) == sorted(place for place in expected if place not in errors)
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == manifest["dropped"]
    assert all(line["source"] for line in dropped)
    texts = {row["id"]: row["text"] for split in manifest["splits"] for row in load_split(tmp_path / "out", split)}
    assert texts["text special tokens"] == "[SEP] [CLS] [MASK] [PAD] <s> </s> <|endoftext|>"
    assert texts["text surrogate"] == "lovely \ufffd\ufffd\ufffd day"
    warnings = {code for _, code in found(tmp_path / "out", tmp_path)}
    assert warnings == {
        "text-empty",
        "text-long",
        "text-control",
        "label-rare",
        "label-alike",
        "id-float",
        "image-animated",
    }


def test_images_are_decoded_as_people_see_them():
    sixteen = np.asarray(open_image(encoded("PNG", "I;16")))
    assert 0 < sixteen.min() + 1 < sixteen.max() <= 255
    assert sixteen.std() > 20, "not all white"
    assert open_image(encoded("JPEG", "CMYK")).mode == "RGB"
    clear = open_image(encoded("PNG", "P", transparency=0))
    assert clear.getpixel((0, 0)) == (255, 255, 255)


def test_ragged_rows_and_quotes_of_csv_are_all_listed(tmp_path):
    rows = write_posts(tmp_path)
    path = save(rows, tmp_path / "posts.csv")
    head = path.read_text().splitlines()[0].split(",")
    with open(path, "a") as file:
        file.write(",".join(["x"] * (len(head) + 1)) + "\n" + ",".join(["y"] * (len(head) - 1)) + "\n")
        file.write('"open,quote\n')
    expected = [("posts.csv:82", "row-fields"), ("posts.csv:83", "row-fields"), ("posts.csv:84", "file-quotes")]
    assert found(path, tmp_path) == expected


def test_a_source_as_a_whole(tmp_path):
    rows = write_posts(tmp_path)
    nameless = save([{k: v for k, v in row.items() if k != "label"} for row in rows], tmp_path / "a.csv")
    assert found(nameless, tmp_path) == [("a.csv", "column-missing")]
    one = save([row | {"label": "same"} for row in rows], tmp_path / "b.csv")
    assert found(one, tmp_path) == [("b.csv", "label-single")]
    path = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert found(path, tmp_path) == []
    path.write_bytes(path.read_bytes()[:-20])
    assert found(path, tmp_path) == [("whole.parquet", "file-unreadable")]


def test_a_dataset_directory_that_was_changed(tmp_path):
    rows = write_posts(tmp_path)
    import_table(str(save(rows, tmp_path / "posts.csv")), out=str(tmp_path / "data"))
    assert found(tmp_path / "data", tmp_path) == []
    path = tmp_path / "data" / "test.parquet"
    table = pq.read_table(path).to_pylist()
    table[0]["label"], table[1]["image"] = 7, {"bytes": b"no image", "path": None}
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist(table, schema=schema), path)
    (tmp_path / "data" / "validation.parquet").unlink()
    assert sorted(found(tmp_path / "data", tmp_path)) == sorted(
        [
            ("test.parquet", "split-changed"),
            ("validation.parquet", "split-changed"),
            (table[0]["id"], "label-unknown"),
            (table[1]["id"], "image-format"),
        ]
    )


def test_the_command_exits_with_3_and_says_what_helps(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write_posts(tmp_path)
    path = save(rows, tmp_path / "posts.csv")
    assert main(["check", str(path)]) == 0
    assert "40 posts, no problems" in capsys.readouterr().out
    (tmp_path / "pics" / "3.png").unlink()
    assert main(["check", str(path)]) == 3
    printed = capsys.readouterr().out
    assert "40 posts, 1 errors, 0 warnings" in printed
    assert "error: image-missing, 1 times" in printed
    assert "--images" in printed
    assert main(["import", "table", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "[image-missing]" in capsys.readouterr().err


@needs_shared("data/mvsa_single")
def test_ten_faults_in_real_posts(tmp_path):
    """All of them, and nothing else."""
    source = tmp_path / "mvsa"
    shutil.copytree(SHARED / "data" / "mvsa_single", source)
    assert found(source, tmp_path, split_dir=str(source / "fold1")) == []
    ids = [entry["id"] for entry in json.loads((source / "fold1" / "train.json").read_text())][:10]
    expected = plant(source, [str(id) for id in ids])
    assert sorted(found(source, tmp_path, split_dir=str(source / "fold1"))) == sorted(expected)


def plant(source: Path, ids: list[str]) -> list[tuple[str, str]]:
    """Ten faults, each in a post of its own."""
    images = {id: source / "data" / f"{id}.jpg" for id in ids}
    content = [images[id].read_bytes() for id in ids]
    images[ids[0]].unlink()
    images[ids[1]].write_bytes(content[1][: len(content[1]) // 2])
    images[ids[2]].write_bytes(b"<html>404</html>")
    images[ids[3]].write_bytes(encoded("PNG", "1", size=(5_001, 5_000)))
    images[ids[4]].unlink()
    os.mkfifo(images[ids[4]])
    images[ids[5]].unlink()
    images[ids[5]].symlink_to("/etc/hostname")
    (source / "data" / f"{ids[6]}.txt").unlink()
    (source / "data" / f"{ids[7]}.txt").write_text("")
    (source / "data" / f"{ids[8]}.txt").write_bytes(b"lovely\0day")
    entries = json.loads((source / "fold1" / "train.json").read_text())
    entries[9]["emotion_label"] = 7
    (source / "fold1" / "train.json").write_text(json.dumps(entries))
    codes = ["image-missing", "image-damaged", "image-format", "image-large", "image-path", "image-outside"]
    return list(zip(ids, [*codes, "text-missing", "text-empty", "text-control", "label-unknown"]))


def test_problems_of_research_sets(tmp_path):
    write_mvsa(tmp_path, ["1\tpositive,positive", "2\tneutral,neutral", "3\tno,label", "4\tnegative,negative"])
    (tmp_path / "data" / "4.txt").unlink()
    got = found(tmp_path, tmp_path, images="none")
    assert ("3", "file-unreadable") in got
    assert ("4", "text-missing") in got


def test_mixed_cells_and_bytes_for_texts(tmp_path):
    rows = [{"text": f"t {n}", "label": "ab"[n % 2], "extra": "x"} for n in range(40)]
    (tmp_path / "part").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part" / "train.parquet")
    other = [row | {"regions": b"x"} for row in rows]
    pq.write_table(pa.Table.from_pylist(other), tmp_path / "part" / "test.parquet")
    third = [row | {"regions": "x", "text": row["text"].encode()} for row in rows[:20]]
    pq.write_table(pa.Table.from_pylist(third), tmp_path / "part" / "validation.parquet")
    got = found(tmp_path / "part", tmp_path)
    assert {code for _, code in got} <= {"cell-mixed", "text-bytes"}
    assert len(got) >= 20


def test_every_code_is_explained_used_and_tested():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "errors.md").read_text()
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == list(PROBLEMS)
    source = "".join(path.read_text() for path in (root / "src").rglob("*.py") if path.name != "problems.py")
    assert [code for code in PROBLEMS if f'"{code}"' not in source] == []
    tests = "".join((root / "tests" / name).read_text() for name in ("hostile.py", "data/test_check.py"))
    assert [code for code in PROBLEMS if f'"{code}"' not in tests] == []
