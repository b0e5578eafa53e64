"""The client of another server that speaks the Open Inference Protocol, tritonclient, talks to the service unchanged."""

import numpy as np
import pytest
from conftest import picture, text
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from clfa.serving.predictor import Predictor


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_predicts(run, served, binary):
    address = str(served().base_url).removeprefix("http://").strip("/")
    client = InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("run")
    described = client.get_model_metadata("run")
    assert [one["name"] for one in described["inputs"]] == ["text", "image"]
    posts = [{"text": text(n, 1 + n % 9), "image": picture(n)} for n in range(6)]
    inputs = [InferInput(name, [len(posts)], "BYTES") for name in ("text", "image")]
    if binary:
        inputs[0].set_data_from_numpy(np.array([post["text"].encode() for post in posts], dtype=object))
        inputs[1].set_data_from_numpy(np.array([post["image"] for post in posts], dtype=object))
    else:
        inputs = inputs[:1]  # its JSON is of texts only
        inputs[0].set_data_from_numpy(
            np.array([post["text"].encode() for post in posts], dtype=object), binary_data=False
        )
        posts = [{"text": post["text"]} for post in posts]
    names = [one["name"] for one in described["outputs"]]
    asked = [InferRequestedOutput(name, binary_data=False) for name in names]
    answer = client.infer("run", inputs, outputs=asked)
    expected = Predictor(run)(posts)
    assert np.allclose(
        answer.as_numpy("probabilities"), [list(one.probabilities.values()) for one in expected], atol=1e-5
    )
    with pytest.raises(InferenceServerException, match="Not Found"):
        client.infer("another", inputs)


def test_outputs_come_as_bytes_where_the_client_asks_for_them(run, served):
    client = InferenceServerClient(str(served().base_url).removeprefix("http://").strip("/"))
    one = InferInput("text", [2], "BYTES")
    one.set_data_from_numpy(np.array([b"a b", b"c"], dtype=object))
    answer = client.infer("run", [one])
    expected = Predictor(run)([{"text": "a b"}, {"text": "c"}])
    found = answer.as_numpy("probabilities")
    assert np.allclose(found, [list(each.probabilities.values()) for each in expected], atol=1e-5)
