"""The backend of Label Studio, by the rules of its makers' package: what it answers is a prediction of the project."""

import base64

import pytest
from conftest import make_dataset, picture, text
from label_studio_sdk.label_interface import LabelInterface

from clfa.data.atomic import read_json
from clfa.data.records import Record
from clfa.evidence.selection import label_config, select
from clfa.serving.predictor import Predictor


def as_uri(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def asked():
    tasks = [{"id": n, "data": {"text": text(n), "image": as_uri(picture(n))}} for n in range(40)]
    return {
        "tasks": tasks,
        "label_config": label_config(["no", "yes"], {"text": False, "image": True}),
        "project": "7.1",
        "params": {},
    }


def test_predictions_are_those_of_the_run_and_valid_in_the_project(run, served, asked):
    client, interface = (
        served(label_studio=True),
        LabelInterface(label_config(["no", "yes"], {"text": False, "image": True})),
    )
    assert client.get("/label-studio/health").json()["status"] == "UP"
    version = client.post("/label-studio/setup", json={"project": "7.1", "schema": asked["label_config"]}).json()
    assert version == {"model_version": "run"}
    answer = client.post("/label-studio/predict", json=asked).json()
    expected = Predictor(run)([{"text": text(n), "image": picture(n)} for n in range(40)])
    for found, own in zip(answer["results"], expected, strict=True):
        assert interface.validate_prediction(found)
        assert found["result"][0]["value"]["choices"] == [own.predicted]
        assert found["score"] == pytest.approx(own.probabilities[own.predicted], abs=1e-5)


def test_a_project_may_name_its_parts_otherwise(served, asked):
    config = (
        label_config(["no", "yes"], {"text": False, "image": True})
        .replace('"label"', '"mood"')
        .replace('toName="text"', 'toName="image"')
    )
    answer = served(label_studio=True).post("/label-studio/predict", json=asked | {"label_config": config}).json()
    assert LabelInterface(config).validate_prediction(answer["results"][0])
    assert answer["results"][0]["result"][0]["from_name"] == "mood"


def test_what_cannot_be_read_has_an_empty_result_and_nothing_is_fetched(served, asked):
    tasks = [
        {"data": {"text": "a b", "image": "http://localhost/a.png"}},
        {"data": {"text": "a b", "image": as_uri(b"no image")}},
        {"data": {"text": "a b", "image": "data:image/png;base64,no!"}},
        {"data": {"text": 7}},
        {"data": {"text": "a b", "other": [1]}},
    ]
    client = served(label_studio=True)
    results = client.post("/label-studio/predict", json={"tasks": tasks}).json()["results"]
    assert [len(one["result"]) for one in results] == [0, 0, 0, 0, 1]
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'
    for wrong in (bomb, "<View/>", "no xml"):
        refused = client.post("/label-studio/predict", json=asked | {"label_config": wrong})
        assert refused.status_code == 422
        assert "label_config" in refused.json()["message"]
    for many in ([], tasks[-1:] * 1_001):
        assert client.post("/label-studio/predict", json={"tasks": many}).status_code == 422


def test_it_is_there_only_when_it_is_asked_for_and_behind_the_keys(served, asked):
    assert served().post("/label-studio/predict", json=asked).status_code == 404
    client = served(keys=["secret"], label_studio=True)
    assert client.post("/label-studio/predict", json=asked).status_code == 401
    assert client.post("/label-studio/predict", json=asked, auth=("anybody", "wrong")).status_code == 401
    assert client.post("/label-studio/predict", json=asked, auth=("anybody", "secret")).status_code == 200


def test_tasks_of_select_are_those_of_the_project(run, tmp_path):
    def post(split, number):
        label = None if split == "unlabelled" else ["no", "yes"][number % 2]
        return Record(f"{split}-{number}", text(number), picture(number) if number % 3 else None, label, {})

    pool = make_dataset(
        tmp_path / "pool", {"train": 2, "validation": 2, "unlabelled": 30}, post, class_names=["no", "yes"]
    )
    select(run, pool, 6, out=tmp_path / "out")
    config = (tmp_path / "out" / "label_studio.xml").read_text()
    for task in read_json(tmp_path / "out" / "tasks.json"):
        assert LabelInterface(config).validate_prediction(task["predictions"][0])
        assert {one.value_name for one in LabelInterface(config).objects} <= task["data"].keys()
