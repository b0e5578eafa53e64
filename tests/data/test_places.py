"""Posts in object storage, by a server on this machine that answers as S3 does."""

import csv
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import picture, text

from clfa import commands
from clfa.config import DataConfig
from clfa.data.places import place, staged
from clfa.data.splits import load_rows
from clfa.errors import UserError


@pytest.fixture
def bucket(monkeypatch):
    """`s3://bucket`, empty."""
    import s3fs
    from moto.backends import get_backend
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield place("s3://bucket")
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
    get_backend("s3").reset()


def posts(count, start=0):
    numbers = range(start, start + count)
    return pa.table(
        {
            "id": [str(number) for number in numbers],
            "text": [text(number, 1 + number % 9) for number in numbers],
            "image": [picture(number) if number % 4 else None for number in numbers],
            "label": ["yes" if number % 3 else "no" for number in numbers],
        }
    )


def write(path, table):
    with path.open("wb") as file:
        pq.write_table(table, file)


def test_a_table_is_imported_from_there(bucket, tmp_path):
    write(bucket / "posts.parquet", posts(100))
    pq.write_table(posts(100), tmp_path / "posts.parquet")
    commands.import_table("s3://bucket/posts.parquet", out=str(tmp_path / "from_there"))
    commands.import_table(str(tmp_path / "posts.parquet"), out=str(tmp_path / "from_here"))
    for split in ("train", "validation", "test"):
        there, here = (load_rows(DataConfig(str(tmp_path / name)), split) for name in ("from_there", "from_here"))
        assert [dict(row) for row in there] == [dict(row) for row in here]


def test_files_are_predicted_from_there_to_there(bucket, run, tmp_path):
    for day in (1, 2):
        write(bucket / "days" / f"{day}.parquet", posts(30, 30 * day))
    (bucket / "days" / "3.csv").write_text("text,image\nword1 word2,\n")
    counts = commands.predict(str(run), input="s3://bucket/days/*", output="s3://bucket/predicted")
    assert (counts["files"], counts["rows"], counts["bad_rows"]) == (3, 61, 0)
    pq.write_table(posts(30, 30), tmp_path / "1.parquet")
    commands.predict(str(run), input=str(tmp_path / "1.parquet"), output=str(tmp_path / "expected.parquet"))
    with (bucket / "predicted" / "1.parquet").open("rb") as file:
        assert pq.read_table(file).to_pylist() == pq.read_table(tmp_path / "expected.parquet").to_pylist()
    with (bucket / "predicted" / "3.csv").open() as file:
        assert [row["text"] for row in csv.DictReader(file)] == ["word1 word2"]

    write(bucket / "days" / "4.parquet", posts(5))
    bucket.fs.invalidate_cache()
    counts = commands.predict(str(run), input="s3://bucket/days", output="s3://bucket/predicted")
    assert (counts["files"], counts["finished_before"], counts["rows"]) == (4, 3, 5)
    with pytest.raises(UserError, match=r"4\.parquet exists"):
        commands.predict(str(run), input="s3://bucket/days/4.parquet", output="s3://bucket/predicted/4.parquet")


def test_paths_of_images_name_no_file_of_this_machine(bucket, run, tmp_path):
    (tmp_path / "1.png").write_bytes(picture(1))
    (bucket / "posts.csv").write_text("text,image\nword1,1.png\n")
    with pytest.raises(UserError, match="the table is in object storage"):
        commands.predict(str(run), input="s3://bucket/posts.csv", output=str(tmp_path / "out.csv"))
    counts = commands.predict(
        str(run), input="s3://bucket/posts.csv", output=str(tmp_path / "out.csv"), image_dir=str(tmp_path)
    )
    assert (counts["predicted"], counts["bad_images"]) == (1, 0)


@pytest.mark.parametrize("address", ["http://localhost/posts.csv", "file:///etc/passwd", "s3://no-bucket/posts.csv"])
def test_other_addresses_are_refused(bucket, address, tmp_path):
    with pytest.raises(UserError, match=r"nothing is fetched|neither a file nor"):
        commands.import_table(address, out=str(tmp_path / "out"))


def test_storage_that_does_not_answer(bucket, monkeypatch):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match="cannot be read"):
        place("s3://bucket/posts.csv")


def test_an_upload_that_fails_is_tried_again_and_nothing_is_predicted_twice(bucket, run, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pq.write_table(posts(40), tmp_path / "posts.parquet")
    given = {"input": str(tmp_path / "posts.parquet"), "output": "s3://bucket/predicted.parquet"}

    def fail(*arguments, **options):
        raise ConnectionError("gone away")

    with monkeypatch.context() as patch:
        patch.setattr(bucket.fs, "put_file", fail)
        with pytest.raises(UserError, match=r"gone away.*goes on with the upload"):
            commands.predict(str(run), **given)
    monkeypatch.setattr("clfa.serving.predictor.Predictor.answer", fail)
    assert commands.predict(str(run), **given)["predicted"] == 40
    assert (bucket / "predicted.parquet").exists()
    assert not list(tmp_path.glob("clfa-*"))


def test_a_folder_that_is_open_to_others_is_not_written_to(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = staged(bucket / "predicted.csv").parent
    folder.chmod(0o777)
    with pytest.raises(UserError, match="open to others"):
        staged(bucket / "predicted.csv")
