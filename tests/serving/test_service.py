"""The service: answers as the predictor's, limits, overload, keys, logs, and how it ends."""

import base64
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from conftest import picture, text
from servers import Slow, free_port, write_cues

from clfa.data.training_cues import CUES
from clfa.errors import UserError
from clfa.model.heatmap import alignment_heatmap
from clfa.serving import batching, state
from clfa.serving.guard import Lines
from clfa.serving.predictor import Predictor
from clfa.serving.service import serve

IMAGE = base64.b64encode(picture(1)).decode()


def test_answers_are_those_of_the_predictor_however_they_are_asked(run, served):
    client, predictor = served(), Predictor(run)
    posts = [{"text": text(n, 1 + n % 9), "image": picture(n) if n % 3 else None} for n in range(40)]
    expected = [answer.probabilities for answer in predictor(posts)]

    def coded(post):
        return {"text": post["text"], "image": post["image"] and base64.b64encode(post["image"]).decode()}

    def close(answers, own):
        for answer, one in zip(answers, own, strict=True):
            assert answer["probabilities"] == pytest.approx(one, abs=1e-5)
            assert answer["predicted"] == max(one, key=one.get)

    close(
        client.post("/predict", json={"posts": [coded(post) for post in posts[:32]]}).json()["predictions"],
        expected[:32],
    )
    with ThreadPoolExecutor(16) as pool:  # many at once share batches, and each gets its own
        answers = list(pool.map(lambda post: client.post("/predict/one", json=coded(post)).json(), posts))
    close(answers, expected)
    form = [
        client.post(
            "/predict/form",
            files={"text": (None, post["text"]), **({"image": ("a.png", post["image"])} if post["image"] else {})},
        ).json()
        for post in posts[:4]
    ]
    close(form, expected[:4])
    # the Open Inference Protocol, in JSON and as bytes
    name = client.get("/info").json()["name"]
    described = client.get(f"/v2/models/{name}").json()
    assert [one["name"] for one in described["inputs"]] == ["text", "image"]
    inputs = [
        {"name": column, "shape": [8], "datatype": "BYTES", "data": [coded(post)[column] for post in posts[:8]]}
        for column in ("text", "image")
    ]
    answer = client.post(f"/v2/models/{name}/infer", json={"id": "7", "inputs": inputs}).json()
    assert answer["id"] == "7"
    found = {one["name"]: one for one in answer["outputs"]}
    rows = np.array([list(one.values()) for one in expected[:8]])
    assert np.allclose(np.reshape(found["probabilities"]["data"], found["probabilities"]["shape"]), rows, atol=1e-5)
    packed = [
        b"".join(struct.pack("<I", len(value)) + value for value in values)
        for values in ([post["text"].encode() for post in posts[:8]], [post["image"] or b"" for post in posts[:8]])
    ]
    inputs = [
        {"name": column, "shape": [8], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
        for column, data in zip(("text", "image"), packed)
    ]
    header = json.dumps({"inputs": inputs, "outputs": [{"name": "probabilities"}]}).encode()
    answer = client.post(
        f"/v2/models/{name}/infer",
        content=header + b"".join(packed),
        headers={"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))},
    ).json()
    assert [one["name"] for one in answer["outputs"]] == ["probabilities"]
    assert np.allclose(np.reshape(answer["outputs"][0]["data"], (8, 2)), rows, atol=1e-5)


def test_what_is_too_much_or_of_another_kind_is_refused_and_says_nothing_of_the_inside(run, served):
    client = served()
    name = client.get("/info").json()["name"]
    oip = f"/v2/models/{name}/infer"
    large = iter([b"x" * 1_000_000] * 12)
    broken = base64.b64encode(picture(1)[:40]).decode()
    cases = [
        (413, client.post("/predict/one", content=b" " * 10_000_001, headers={"Content-Type": "application/json"})),
        (413, client.post("/predict/one", content=large, headers={"Content-Type": "application/json"})),
        (415, client.post("/predict/one", content=b"{}", headers={"Content-Type": "text/plain"})),
        (415, client.post("/predict/form", json={"text": "a"})),
        (400, client.post("/predict/one", content=b"{", headers={"Content-Type": "application/json"})),
        (400, client.post("/predict/one", content=b"\xff\xfe", headers={"Content-Type": "application/json"})),
        (422, client.post("/predict/one", json={"text": "x" * 10_001})),
        (422, client.post("/predict/one", json={"text": "a", "url": "http://example.com/a.png"})),
        (422, client.post("/predict/one", json={"text": "a", "image": "http://example.com/a.png"})),
        (422, client.post("/predict/one", json={"text": "a", "image": "/etc/passwd"})),
        (422, client.post("/predict/one", json={"image": broken})),
        (422, client.post("/predict/one", json=["a"])),
        (422, client.post("/predict", json={"posts": [{"text": "a"}] * 33})),
        (422, client.post("/predict", json={"posts": []})),
        (422, client.post("/predict/form", files={"text": ("a.txt", b"a file")})),
        (422, client.post("/predict/form", files={"text": (None, "a"), "other": (None, "b")})),
        (400, client.post("/predict/form", files=[("text", (None, "a"))] * 5)),
        (422, client.post(oip, json={"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]})),
        (422, client.post(oip, json={"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": [1]}]})),
        (422, client.post(oip, json={"inputs": [{"name": "url", "shape": [1], "datatype": "BYTES", "data": ["a"]}]})),
        (422, client.post(oip, json={"inputs": 7})),
        (404, client.get("/nothing")),
        (405, client.get("/predict")),
    ]
    for status, answer in cases:
        assert answer.status_code == status, (answer.request.url, answer.text)
        said = answer.json()
        of_protocol = {"error"} if answer.request.url.path.startswith("/v2") else set()  # as the protocol calls it
        assert said.keys() == {"code", "message", "request_id"} | of_protocol
        assert said["request_id"] == answer.headers["x-request-id"]
        assert not any(word in answer.text for word in ("clfa.", "Traceback", "site-packages", str(run), ".py"))
    own = client.get("/health/live", headers={"X-Request-ID": "trace-7"})
    assert own.headers["x-request-id"] == "trace-7"
    # of several posts the others are answered
    answers = client.post("/predict", json={"posts": [{"text": "a"}, {"image": broken}, {"text": "b", "image": IMAGE}]})
    problems = [one["problem"].partition(":")[0] for one in answers.json()["predictions"]]
    assert problems == ["", "image-format", ""]


def test_words_align_with_the_patches_of_the_image(run, served):
    client, predictor = served(), Predictor(run)
    assert client.get("/info").json()["alignment"] is True
    answer = client.post("/predict/alignment", json={"text": "word1 word2", "image": IMAGE}).json()
    expected = alignment_heatmap(predictor.pipeline, {"text": "word1 word2", "image": picture(1)})
    assert answer["words"] == expected.words == ["word1", "word2"]
    assert np.array(answer["similarity"]) == pytest.approx(expected.similarity, abs=1e-4)
    for post in ({"text": "word1"}, {"image": IMAGE}):
        refused = client.post("/predict/alignment", json=post)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
        assert refused.json()["message"] == "the post needs both a text and an image for a heatmap"
    broken = base64.b64encode(picture(1)[:40]).decode()
    refused = client.post("/predict/alignment", json={"text": "word1", "image": broken})
    assert refused.json()["message"].startswith("image-format: ")


def test_a_run_says_what_it_has_not(run, served):
    client = served()
    client.service.predictor.no_heatmap = "no patches are read"  # as of an export, or of the mean of patches
    info = client.get("/info").json()
    assert (info["alignment"], info["cues"]) == (False, False)
    for path, message in (("alignment", "no patches are read"), ("cues", "the run has no cues.json")):
        refused = client.post(f"/predict/{path}", json={"text": "word1", "image": IMAGE})
        assert (refused.status_code, refused.json()["code"]) == (409, "not-of-this-run")
        assert refused.json()["message"].startswith(message)


def test_an_alignment_waits_as_posts_do(served, monkeypatch):
    monkeypatch.setattr(state, "TIMEOUT", 0.5)
    slow = Slow(may=False)
    client = served(slow, keys=["the-key"])
    post, key = {"text": "first", "image": IMAGE}, {"X-API-Key": "the-key"}
    assert client.post("/predict/alignment", json=post).status_code == 401
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/predict/alignment", json=post, headers=key)
        while not slow.asked:
            time.sleep(0.01)
        late = [
            pool.submit(client.post, f"/predict/{path}", json={"text": "late"}, headers=key)
            for path in ("one", "alignment")
        ]
        assert [each.result().status_code for each in (first, *late)] == [504] * 3
    slow.may.set()
    assert client.post("/predict/alignment", json=post, headers=key).json()["words"] == ["word1"]
    assert slow.asked == [["first"], ["first"]], "what was given up is not computed"


def test_cues_of_the_training_posts(run, served):
    write_cues(run)
    client = served(Slow())
    assert client.get("/info").json()["cues"] is True
    answer = client.post("/predict/cues", json={"text": "Word1  word2, word4"})
    cue = {"cue": "word1 word2", "hints_at": "yes", "posts": {"no": 3, "yes": 41}}
    assert answer.json() == {"posts": {"no": 150, "yes": 150}, "cues": [cue]}
    assert client.post("/predict/cues", json={"image": IMAGE}).json()["cues"] == []
    assert client.post("/predict/cues", json={"text": "x" * 10_001}).status_code == 422


def test_broken_cues_are_ignored_and_logged(run, served, caplog):
    (run / CUES).write_text('{"layout": 1, "class_names": ["no", "yes"], "posts": [1, 1], "cues": [{"cue": "a"}]}')
    with caplog.at_level(logging.WARNING, logger="clfa.service"):
        client = served(Slow())
    assert client.get("/info").json()["cues"] is False
    line = json.loads(Lines().format(next(record for record in caplog.records if record.message == "ignored")))
    assert (line["file"], line["problem"]) == ("cues.json", "KeyError: 'posts'")


def test_overload_is_refused_at_once_and_over_at_once(served):
    slow = Slow(may=False)
    client = served(slow)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/predict", json={"posts": [{"text": "a"}] * 32}) for _ in range(5)]
        while client.service.batcher.waiting < batching.WAITING:
            time.sleep(0.01)
        begun = time.monotonic()
        answer = client.post("/predict/one", json={"text": "one too many"})
        assert time.monotonic() - begun < 1
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        slow.may.set()
        assert [each.result().status_code for each in asked] == [200] * 5
    assert client.post("/predict/one", json={"text": "a"}).status_code == 200
    assert ["one too many"] not in slow.asked


def test_what_takes_too_long_is_given_up_and_not_computed(served, monkeypatch):
    monkeypatch.setattr(state, "TIMEOUT", 0.5)
    slow = Slow(may=False)
    client = served(slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/predict/one", json={"text": "first"})
        while not slow.asked:
            time.sleep(0.01)
        second = pool.submit(client.post, "/predict/one", json={"text": "second"})
        assert [first.result().status_code, second.result().status_code] == [504, 504]
    slow.may.set()
    assert client.post("/predict/one", json={"text": "third"}).status_code == 200
    assert slow.asked == [["first"], ["third"]]


def test_of_a_client_that_has_gone_nothing_is_computed(served):
    slow = Slow(may=False)
    client = served(slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/predict/one", json={"text": "first"})
        while not slow.asked:
            time.sleep(0.01)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{client.base_url}/predict/one", json={"text": "gone"}, timeout=0.5)
        while client.service.batcher.waiting:
            time.sleep(0.01)
        slow.may.set()
        assert first.result().status_code == 200
    assert client.post("/predict/one", json={"text": "third"}).status_code == 200
    assert slow.asked == [["first"], ["third"]]
    assert 'status="499"' in client.get("/metrics").text


def test_a_model_that_cannot_be_loaded_ends_the_service_with_its_error(run):
    weights = run / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    command = [sys.executable, "-m", "clfa", "serve", str(run), "--port", str(free_port())]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert child.returncode == 2
    assert "model.safetensors" in child.stderr
    assert "Traceback" not in child.stderr


def test_a_fault_is_no_end_and_tells_nothing(served, caplog):
    class Faulty(Slow):
        def __call__(self, posts):
            if posts[0]["text"] == "my secret":
                raise RuntimeError("cannot read my secret")
            return super().__call__(posts)

    client = served(Faulty())
    with caplog.at_level(logging.DEBUG, logger="clfa.service"):
        answer = client.post("/predict/one", json={"text": "my secret"})
        time.sleep(0.5)  # a line comes after its answer
    assert answer.status_code == 500
    assert answer.json()["message"] == "a fault of the service"
    lines = [Lines().format(record) for record in caplog.records if record.name == "clfa.service"]
    assert any(json.loads(line)["event"] == "fault" and json.loads(line)["type"] == "RuntimeError" for line in lines)
    assert "secret" not in "".join(lines)
    assert client.post("/predict/one", json={"text": "a"}).status_code == 200


def test_keys(run, served, caplog):
    client = served(Slow(), keys=["first-key", "second-key"])
    with caplog.at_level(logging.DEBUG):
        for headers, status in (
            ({}, 401),
            ({"X-API-Key": "another"}, 401),
            ({"Authorization": "Bearer first-ke"}, 401),
            ({"X-API-Key": "first-key"}, 200),
            ({"Authorization": "Bearer second-key"}, 200),
        ):
            assert client.post("/predict/one", json={"text": "a"}, headers=headers).status_code == status
            assert client.get("/metrics", headers=headers).status_code == status
        assert client.get("/health/live").status_code == 200
    assert not any(key in caplog.text for key in ("first-key", "second-key", "first-ke"))
    schema = client.get("/openapi.json", headers={"X-API-Key": "first-key"}).json()
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            needed = client.request(method, path.replace("{", "").replace("}", "")).status_code == 401
            assert needed == ("security" in told), path
    assert {way["type"] for way in schema["components"]["securitySchemes"].values()} == {"apiKey", "http"}
    open_to_all = served(Slow()).get("/openapi.json").json()
    assert not any("security" in told for methods in open_to_all["paths"].values() for told in methods.values())
    with pytest.raises(UserError, match="can be reached from other machines"):
        serve(run, "0.0.0.0", 0, [], Slow)


def test_nothing_that_was_sent_is_logged(served, caplog):
    client = served()
    with caplog.at_level(logging.DEBUG, logger="clfa"):
        client.post("/predict/one", json={"text": "marker", "image": IMAGE})
        client.post("/predict/form", files={"text": (None, "marker"), "image": ("marker.png", b"marker")})
        client.post("/predict/one", json={"marker": 1})
        client.get("/marker?marker=marker", headers={"X-Request-ID": "marker with spaces"})
        time.sleep(0.5)  # a line comes after its answer
    lines = [json.loads(Lines().format(record)) for record in caplog.records if record.name.startswith("clfa")]
    asked = [line for line in lines if line["event"] == "request" and line["route"] != "/health/ready"]
    assert [line["status"] for line in asked] == [200, 422, 422, 404]
    assert "marker" not in json.dumps(lines)
    metrics = client.get("/metrics").text
    assert 'clfa_requests_total{route="/predict/one",status="200"} 1.0' in metrics
    assert "marker" not in metrics


@pytest.mark.slow
def test_told_to_end_it_says_so_answers_what_it_has_and_ends_with_0(run, tmp_path):
    code = (
        "import sys, time\nfrom clfa.serving.predictor import Predictor\nown = Predictor.__call__\n"
        "Predictor.__call__ = lambda self, posts: (time.sleep(2), own(self, posts))[1]\n"
        "from clfa.cli import run\nrun()"
    )
    port = free_port()
    with open(tmp_path / "log", "w") as log:
        child = subprocess.Popen([sys.executable, "-c", code, "serve", str(run), "--port", str(port)], stderr=log)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client, ThreadPoolExecutor(4) as pool:
        ready = []
        for _ in range(1200):
            try:
                ready.append(client.get("/health/ready").status_code)
                if ready[-1] == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        assert set(ready[:-1]) <= {503}  # while it was loading
        asked = [pool.submit(client.post, "/predict/one", json={"text": f"word{n}"}) for n in range(3)]
        time.sleep(0.5)
        os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.1)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        assert client.post("/predict/one", json={"text": "late"}).status_code == 503
        assert [each.result().status_code for each in asked] == [200] * 3
    assert child.wait(timeout=30) == 0
    for line in (tmp_path / "log").read_text().splitlines()[1:]:
        json.loads(line)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a broken form's file is left to Python
def test_mutated_requests_find_no_fault(served):
    """10,000 requests with bytes changed, taken out, repeated: refused or answered, never a fault."""
    client = served(Slow())
    name = client.get("/info").json()["name"]
    inputs = [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]
    form = b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\nhello\r\n--b\r\nContent-Disposition: form-data; '
    form += b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + picture(1) + b"\r\n--b--\r\n"
    seeds = [
        (
            "/predict",
            "application/json",
            json.dumps({"posts": [{"text": "a", "image": IMAGE[:80]}, {"text": "b"}]}).encode(),
        ),
        ("/predict/one", "application/json", json.dumps({"text": "a", "image": None}).encode()),
        ("/predict/form", "multipart/form-data; boundary=b", form),
        (f"/v2/models/{name}/infer", "application/json", json.dumps({"inputs": inputs, "id": "1"}).encode()),
    ]
    generator, seen = np.random.default_rng(0), {}
    for number in range(10_000):
        path, kind, body = seeds[number % len(seeds)]
        changed = bytearray(body)
        for _ in range(generator.integers(1, 4)):
            place = int(generator.integers(0, len(changed) or 1))
            how = generator.integers(0, 4)
            if how == 0 and changed:
                changed[place % len(changed)] = generator.integers(0, 256)
            elif how == 1:
                del changed[place : place + int(generator.integers(1, 9))]
            elif how == 2:
                changed[place:place] = changed[place : place + 20]
            else:
                changed[place:place] = [b"null", b"[[", b"1e999", b"\x00", b"\\ud800", b'":{"'][number % 6]
        status = client.post(path, content=bytes(changed), headers={"Content-Type": kind}).status_code
        seen[status] = seen.get(status, 0) + 1
        assert status in (200, 400, 413, 415, 422), (path, bytes(changed))
    assert seen[200] > 100
    assert seen[422] > 100
