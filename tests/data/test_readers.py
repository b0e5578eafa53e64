"""Readers: one row out for each row in, exact counts on the real files, clear errors."""

import json
from pathlib import Path

import pytest
from conftest import SHARED, needs_shared, picture

from clfa.commands import import_mmsd, import_mmsd2, import_mvsa, import_table
from clfa.data.images import safe_image
from clfa.data.published import MMSD_FILTER, read_mmsd, read_mvsa
from clfa.data.records import Bad, Dropped
from clfa.data.rows import load_split
from clfa.data.tables import open_posts
from clfa.errors import UserError
from clfa.serving.predictor import Predictor
from clfa.training.train import train

COLUMNS = {name: name for name in ("id", "text", "image", "label", "split", "knowledge")}


def write_mmsd(folder: Path) -> None:
    (folder / "train.txt").write_text(
        "['910308516510011393', 'what a day  ', 1]\n['2', 'so much sarcasm', 1]\n['3', 'sarcasmic joke', 0]\n"
        "['4', 'next\\u2028line', 0]\n",
        encoding="utf-8",
    )
    for name in ("valid2.txt", "test2.txt"):
        (folder / name).write_text("['7', 'fine', 1, 0]\n['8', 'well', 0, 1]\n", encoding="utf-8")


def test_mmsd_filters_tokens_and_reads_the_annotators_label(tmp_path):
    write_mmsd(tmp_path)
    rows, labels, _ = read_mmsd(tmp_path, None)
    found = list(rows)
    dropped = [row for _, row in found if isinstance(row, Dropped)]
    assert [(row.id, row.reason, row.source) for row in dropped] == [
        ("2", "contains 'sarcasm'", "train.txt:2"),
        ("3", "contains 'joke'", "train.txt:3"),
    ]
    kept = {(split, row.id): row for split, row in found if not isinstance(row, Dropped)}
    assert kept["validation", "7"].label == labels[0]
    assert kept["validation", "7"].values == {"hashtag_label": labels[1]}
    assert kept["train", "910308516510011393"].text == "what a day  "
    assert len(found) == 8


def test_mmsd_never_runs_code(tmp_path):
    write_mmsd(tmp_path)
    (tmp_path / "train.txt").write_text("__import__('os').mkdir('hacked')\n")
    first = next(row for _, row in read_mmsd(tmp_path, None)[0])
    assert isinstance(first, Bad)
    assert "train.txt:1" in str(first.error)
    assert not Path("hacked").exists()


def write_mvsa(folder: Path, lines: list[str]) -> None:
    (folder / "data").mkdir()
    (folder / "labelResultAll.txt").write_text("ID\ttext,image\n" + "\n".join(lines) + "\n")
    for line in lines:
        id = line.split("\t")[0]
        (folder / "data" / f"{id}.txt").write_bytes(f"好 day {id}\n".encode("gb18030" if int(id) % 2 else "utf-8"))


def test_mvsa_joint_labels(tmp_path):
    cases = {
        "1\tpositive,positive": "positive",
        "2\tneutral,negative": "negative",
        "3\tpositive,neutral": "positive",
        "4\tneutral,neutral": "neutral",
        "5\tpositive,negative": None,
        "6\tpositive,positive\tpositive,neutral\tnegative,positive": "positive",
        "7\tpositive,positive\tneutral,positive\tnegative,positive": None,
    }
    write_mvsa(tmp_path, list(cases))
    (tmp_path / "lists").mkdir()
    for name, ids in (("train", "1 2 3"), ("dev", "4"), ("test", "6")):
        (tmp_path / "lists" / f"{name}.txt").write_text(ids)
    found = list(read_mvsa(tmp_path, None, tmp_path / "lists")[0])
    assert len(found) == len(cases)
    for (_, row), (line, label) in zip(found, cases.items()):
        assert isinstance(row, Dropped) == (label is None), line
        if label is not None:
            assert row.label == label
            assert row.text == f"好 day {row.id}"
    assert [row.reason for _, row in found if isinstance(row, Dropped)] == [
        "text and image contradict",
        "annotators disagree",
    ]
    assert found[1][1].values == {"text_label": "neutral", "image_label": "negative"}


def test_mvsa_splits(tmp_path):
    write_mvsa(tmp_path, [f"{n}\t{label},{label}" for n, label in enumerate(["positive", "neutral", "negative"] * 10)])
    by_order = {row.id: split for split, row in read_mvsa(tmp_path, None, split="file-order")[0]}
    assert [id for id, split in by_order.items() if split == "test"] == ["27", "28", "29"]
    assert [id for id, split in by_order.items() if split == "validation"] == ["24", "25", "26"]
    drawn = [{row.id: split for split, row in read_mvsa(tmp_path, None, seed=seed)[0]} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for id in map(str, range(9)):  # equal texts, three of each label
        (tmp_path / "data" / f"{id}.txt").write_text("a day like this")
    together = {row.id: split for split, row in read_mvsa(tmp_path, None, seed=0)[0]}
    assert len({together[str(number)] for number in range(9)}) == 1
    assert set(together.values()) == {"train", "validation", "test"}


def write_posts(folder: Path, count: int = 40, **extra) -> list[dict]:
    (folder / "pics").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        (folder / "pics" / f"{number}.png").write_bytes(picture(number))
        rows.append(
            {
                "id": f"91030851651001139{number}",
                "text": f'say "{number}", then\nleave',
                "image": f"pics/{number}.png",
                "label": ["no", "yes"][number % 2],
                **extra,
            }
        )
    return rows


def save(rows: list[dict], path: Path) -> Path:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_table_formats_give_the_same_data_set(tmp_path, ending):
    path = save(write_posts(tmp_path), tmp_path / f"posts{ending}")
    manifest = import_table(str(path), out=str(tmp_path / "out"))
    assert [manifest["splits"][split]["rows"] for split in ("train", "validation", "test")] == [32, 4, 4]
    assert all(len(set(split["labels"].values())) == 1 for split in manifest["splits"].values())  # stratified
    row = load_split(tmp_path / "out", "train")[0]
    assert row["id"].startswith("91030851651001139")
    assert row["text"].endswith("then leave")
    assert row["image"]["bytes"].startswith(b"\x89PNG")


def test_table_with_split_column_other_names_and_knowledge(tmp_path):
    rows = write_posts(tmp_path, 30, knowledge="a caption")
    for number, row in enumerate(rows):
        row["fold"] = ["train", "dev", "test"][number % 3]
        row["sentiment"] = row.pop("label")
    path = save(rows, tmp_path / "posts.csv")
    manifest = import_table(str(path), out=str(tmp_path / "out"), label_column="sentiment", split_column="fold")
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {
        "train": 10,
        "validation": 10,
        "test": 10,
    }
    assert load_split(tmp_path / "out", "test")["knowledge"][0] == "a caption"


def test_folder_with_a_file_per_split(tmp_path):
    rows = write_posts(tmp_path)
    for name, part in (("train", rows[:20]), ("valid", rows[20:30]), ("test", rows[30:])):
        save(part, tmp_path / f"{name}.csv")
    manifest = import_table(str(tmp_path), out=str(tmp_path / "out"))
    assert [split["rows"] for split in manifest["splits"].values()] == [20, 10, 10]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves its file open
@pytest.mark.parametrize("stream", [False, True])
def test_imagefolder(tmp_path, stream):
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = ["file_name,text,label"]
    for number in range(40):
        (folder / f"{number}.png").write_bytes(picture(number))
        lines.append(f"{number}.png,words {number},{['no', 'yes'][number % 2]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    manifest = import_table(str(folder), out=str(tmp_path / "out"), stream=stream)
    assert manifest["labels"] == ["no", "yes"]
    assert sum(split["rows"] for split in manifest["splits"].values()) == 40
    assert load_split(tmp_path / "out", "train")[0]["image"]["bytes"].startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_streamed_data_set_of_the_hub_is_the_downloaded_one(tmp_path, kind):
    """As repositories have it: a folder `data`, a file per split; of JSON the library knows no columns beforehand."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    for split, count in {"train": 60, "validation": 20, "test": 20}.items():
        posts = {"text": [f"{split} {number}" for number in range(count)], "label": [n % 2 for n in range(count)]}
        path = tmp_path / "set" / "data" / f"{split}-00000-of-00001.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            posts["image"] = [{"bytes": picture(number), "path": None} for number in range(count)]
            features = Features(text=Value("string"), label=ClassLabel(names=["no", "yes"]), image=Image())
            Dataset.from_dict(posts, features).to_parquet(path)
        else:
            Dataset.from_dict(posts).to_json(path)
    manifests = []
    for stream in (False, True):
        images = None if kind == "parquet" else "none"
        manifest = import_table(str(tmp_path / "set"), out=str(tmp_path / f"{stream}"), images=images, stream=stream)
        manifests.append(manifest)
    assert manifests[0]["splits"] == manifests[1]["splits"]
    assert manifests[1]["labels"] == (["no", "yes"] if kind == "parquet" else ["0", "1"])
    assert manifests[1]["splits"]["train"]["rows"] == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [{("sentance" if k == "text" else k): v for k, v in row.items()} for row in rows],
            "did you mean --text-column sentance",
        ),
        (lambda rows: [{k: v for k, v in row.items() if k != "image"} for row in rows], "--images none"),
        (lambda rows: [*rows[:5], {**rows[5], "label": ""}, *rows[6:]], r"posts\.csv:12: the label is empty"),
        (lambda rows: [{**row, "label": "same"} for row in rows], "two classes"),
        (lambda rows: [{**rows[0], "image": "../../etc/passwd"}, *rows[1:]], "outside"),
        (lambda rows: [{**rows[0], "image": "https://example.org/a.png"}, *rows[1:]], "nothing is fetched"),
        (lambda rows: [*rows, rows[0]], "twice"),
        (lambda rows: [{**row, "split": "eval"} for row in rows], "unknown split 'eval'"),
    ],
    ids=["column", "no image column", "empty label", "one class", "path", "url", "duplicate id", "split"],
)
def test_table_mistakes_are_told(tmp_path, change, message):
    rows = write_posts(tmp_path)
    for row in rows:
        row["split"] = "train"
    path = save(change(rows), tmp_path / "posts.csv")
    with pytest.raises(UserError, match=message):
        import_table(str(path), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rare", ["train", "drop"])
@pytest.mark.parametrize("given", [True, False])
def test_rows_without_a_label_are_kept_apart_when_asked(tmp_path, given, rare):
    """Whatever their split says; labelled rows are where they would be without them."""
    rows = write_posts(tmp_path)
    rows[30]["label"] = "rare"
    for number, row in enumerate(rows):
        row["split"] = ["train", "validation", "test"][number % 3] if given else ""
    save(rows, tmp_path / "labelled.csv")
    more = [{**rows[n], "id": f"more{n}", "text": f"more {n}", "label": "", "split": "test"} for n in (0, 7)]
    save([more[0], *rows, more[1]], tmp_path / "posts.csv")
    alone = import_table(str(tmp_path / "labelled.csv"), out=str(tmp_path / "alone"), rare=rare)
    manifest = import_table(str(tmp_path / "posts.csv"), out=str(tmp_path / "out"), rare=rare, unlabelled="keep")
    found = load_split(tmp_path / "out", "unlabelled")
    assert found["id"] == ["more0", "more7"]
    assert found.labels.tolist() == [-1, -1]
    assert found[0]["label"] is None
    assert found[0]["image"]["bytes"]
    described = manifest["splits"].pop("unlabelled")
    assert (described["rows"], described["labels"]) == (2, {})
    assert manifest["splits"] == alone["splits"]
    assert manifest["dropped"] == alone["dropped"] == (rare == "drop")


def test_ragged_and_badly_encoded_files_are_told(tmp_path):
    (tmp_path / "ragged.csv").write_text("id,text,label\n1,a,b,c\n")
    (tmp_path / "bytes.csv").write_bytes(b"id,text,label\n1,\xff\xfe,a\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "label": "b", "image": ""}\n{"text":\n')
    for name, message in (("ragged.csv", ":2"), ("bytes.csv", "UTF-8"), ("broken.jsonl", ":2"), ("no.csv", "neither")):
        with pytest.raises(UserError, match=message):
            import_table(str(tmp_path / name), out=str(tmp_path / "out"), images="none")
    with pytest.raises(UserError, match="unknown ending"):
        open_posts(Path(__file__), COLUMNS)


def test_quotes_never_swallow_rows(tmp_path):
    (tmp_path / "open.csv").write_text('id,label,text\n1,a,"oops\n2,b,fine\n3,a,ok\n')
    (tmp_path / "tabs.tsv").write_text('id\ttext\tlabel\n1\t"hello\ta\n2\tfoo\tb\n3\tbar"\ta\n')
    for name in ("open.csv", "tabs.tsv"):
        with pytest.raises(UserError, match="quote"):
            list(open_posts(tmp_path / name, COLUMNS).rows(None))


def test_unlabelled_and_repeated_rows_of_research_sets_are_told(tmp_path):
    write_mmsd(tmp_path)
    (tmp_path / "train.txt").write_text("['1', 'a', -1]\n")
    first = next(row for _, row in read_mmsd(tmp_path, None)[0])
    assert "train.txt:1" in str(first.error)
    folder = tmp_path / "mvsa"
    folder.mkdir()
    write_mvsa(folder, ["1\tpositive,positive", "2\tneutral,neutral"])
    for entries, message in (
        ({"train": [1], "dev": [1], "test": [2]}, "two splits"),
        ({"train": [{"emotion_label": 1}], "dev": [], "test": []}, "emotion_label"),
    ):
        for name, ids in entries.items():
            (folder / f"{name}.json").write_text(json.dumps(ids))
        with pytest.raises(UserError, match=message):
            read_mvsa(folder, None, folder)


def test_missing_images_are_counted_or_skipped_or_left_out(tmp_path):
    rows = write_posts(tmp_path)
    for number in range(3):
        (tmp_path / "pics" / f"{number}.png").unlink()
    path = str(save(rows, tmp_path / "posts.csv"))
    with pytest.raises(UserError, match="3 of 40 posts"):
        import_table(path, out=str(tmp_path / "a"))
    with pytest.raises(UserError, match=r"3 of 40 posts cannot be used, more than --max-bad 0\.01"):
        import_table(path, out=str(tmp_path / "b"), on_bad="skip")
    masked = import_table(path, out=str(tmp_path / "masked"), on_bad="mask", max_bad=0.1)
    assert masked["dropped"] == 0
    assert sum(split["without_image"] for split in masked["splits"].values()) == 3
    manifest = import_table(path, out=str(tmp_path / "b"), on_bad="skip", max_bad=0.1)
    assert manifest["dropped"] == 3
    assert sum(split["rows"] for split in manifest["splits"].values()) == 37
    manifest = import_table(path, out=str(tmp_path / "c"), images="none")
    assert sum(split["without_image"] for split in manifest["splits"].values()) == 40


def test_empty_image_cell_means_no_image(tmp_path):
    assert safe_image("", tmp_path, "row 1") is None
    assert safe_image(None, tmp_path, "row 1") is None


@needs_shared("data/mmsd")
@pytest.mark.parametrize(
    ("filter", "rows"),
    [("tokens", (19816, 2410, 2409)), ("substrings", (19557, 2387, 2373)), ("none", (29040, 2410, 2409))],
)
def test_mmsd_counts(tmp_path, filter, rows):
    out = tmp_path / "out"
    manifest = import_mmsd(str(SHARED / "data/mmsd"), images="none", out=str(out), filter=filter)
    assert tuple(split["rows"] for split in manifest["splits"].values()) == rows
    assert sum(rows) + manifest["dropped"] == 33_859
    assert len((out / "dropped.jsonl").read_text().splitlines()) == manifest["dropped"]
    if filter == "tokens":
        assert [split["labels"]["sarcastic"] for split in manifest["splits"].values()] == [8642, 959, 959]
        assert manifest["splits"]["train"]["dropped"] == 9224
        test = load_split(out, "test")
        assert sum(a != manifest["labels"][b] for a, b in zip(test["hashtag_label"], test["label"])) == 144
        assert not MMSD_FILTER & {token for text in test["text"] for token in text.split()}


@needs_shared("data/mmsd")
def test_mmsd_white_space_leak_is_kept_only_on_request(tmp_path):
    for form, expected in (("normalised", 0), ("raw", 94.0)):
        import_mmsd(str(SHARED / "data/mmsd"), images="none", out=str(tmp_path / form), text=form)
        test = load_split(tmp_path / form, "test")
        irregular = [text != " ".join(text.split()) for text in test["text"]]
        if expected:
            assert 100 * sum(a == bool(b) for a, b in zip(irregular, test["label"])) / 2409 == pytest.approx(
                94.0, abs=0.05
            )
        else:
            assert not any(irregular)


@needs_shared("data/mmsd2")
def test_mmsd2_counts(tmp_path):
    manifest = import_mmsd2(str(SHARED / "data/mmsd2"), images="none", out=str(tmp_path / "out"))
    found = [(split["rows"], split["labels"]["sarcastic"]) for split in manifest["splits"].values()]
    assert found == [(19816, 9576), (2410, 1042), (2409, 1037)]


@needs_shared("data/mvsa_single")
@pytest.mark.slow
def test_mvsa_counts(tmp_path):
    source = SHARED / "data/mvsa_single"
    manifest = import_mvsa(str(source), split_dir=str(source / "fold1"), out=str(tmp_path / "out"))
    assert [split["rows"] for split in manifest["splits"].values()] == [3611, 450, 450]
    total = {name: sum(split["labels"][name] for split in manifest["splits"].values()) for name in manifest["labels"]}
    assert total == {"positive": 2683, "neutral": 470, "negative": 1358}


def test_any_further_column_is_kept_and_read_by_a_modality(tmp_path, encoders, run_config):
    """`--column ocr=ocr_text`: the column is in the data set, a modality reads it, and so does a file to predict on."""
    rows = write_posts(tmp_path)
    for number, row in enumerate(rows):
        row |= {"ocr_text": "" if number % 4 == 0 else f"word{number % 9}  word2", "clip": f"{number}.wav"}
    path = save(rows, tmp_path / "posts.csv")
    manifest = import_table(str(path), out=str(tmp_path / "out"), column=["ocr=ocr_text", "audio=clip"])
    assert manifest["columns"] == {"ocr": "string", "audio": "string"}
    train_rows = load_split(tmp_path / "out", "train")
    assert set(train_rows["ocr"]) == {None, *(f"word{number} word2" for number in range(9))}
    assert train_rows["audio"][0].endswith(".wav")
    with pytest.raises(UserError, match=r"--column ocr=ocr_tex.*did you mean --column ocr=ocr_text"):
        import_table(str(path), out=str(tmp_path / "no"), column=["ocr=ocr_tex"])
    ocr = {"kind": "text", "shares": "text", "align": False, "about": "image"}
    run = train(run_config(data__path=str(tmp_path / "out"), train__epochs=1, model__modalities__ocr=ocr))
    predictor = Predictor(run)
    post = {"text": "word1", "image": picture(1)}
    with_ocr, without = predictor([{**post, "ocr": "word3"}, post])
    assert with_ocr != without


def test_knowledge_columns_by_other_names_and_rows_that_leave_columns_out(tmp_path):
    rows = write_posts(tmp_path)
    for row in rows:
        row["attrs"] = ["cat", "sofa"]
    del rows[0]["attrs"], rows[0]["image"]  # a JSON object may leave empty values out
    path = save(rows, tmp_path / "posts.jsonl")
    manifest = import_table(str(path), out=str(tmp_path / "out"), column=["attributes=attrs"])
    kept = [value for split in manifest["splits"] for value in load_split(tmp_path / "out", split)["attributes"]]
    assert sorted(kept, key=str) == [None, *["cat sofa"] * 39]
    assert sum(split["without_image"] for split in manifest["splits"].values()) == 1
