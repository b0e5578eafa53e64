"""Encoders pass Hugging Face's outputs on unchanged, whatever the architecture."""

import io

import pytest
import torch
from conftest import picture, text
from PIL import Image
from transformers import AutoModel

from clfa.errors import UserError
from clfa.model.encoders import fingerprint, load_encoder, resolve


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_text_states_are_hugging_faces(encoders, name):
    encoder = load_encoder(str(encoders / name), "text").eval()
    inputs = encoder.prepare([text(1), text(2, 3)])
    expected = AutoModel.from_pretrained(encoders / name).eval()(**inputs).last_hidden_state
    states, mask = encoder(inputs)
    assert torch.equal(states, expected)
    assert torch.equal(mask, inputs["attention_mask"].bool())
    assert encoder.width == expected.shape[-1]


@pytest.mark.parametrize(("name", "tokens"), [("vit", 17), ("deit", 18), ("swin", 16), ("resnet", 4), ("mobilenet", 1)])
def test_image_states_are_hugging_faces(encoders, name, tokens):
    encoder = load_encoder(str(encoders / name), "image").eval()
    images = [Image.open(io.BytesIO(picture(seed))) for seed in (1, 2)]
    inputs = encoder.prepare(images)
    states, mask = encoder(inputs)
    assert states.shape == (2, tokens, encoder.width)
    assert mask.all()
    expected = AutoModel.from_pretrained(encoders / name).eval()(**inputs).last_hidden_state
    if expected.ndim == 4:  # place (row, column) of the map is token row * width + column
        assert torch.allclose(states[0, -1], expected[0, :, -1, -1], atol=1e-6)
        expected = expected.flatten(2).transpose(1, 2)
    assert torch.allclose(states, expected, atol=1e-6)


def test_towers_of_a_dual_encoder_and_their_pooled_embeddings(encoders):
    clip = AutoModel.from_pretrained(encoders / "clip").eval()
    inputs = {
        "text": load_encoder(str(encoders / "clip"), "text").prepare([text(1), text(2, 3)]),
        "image": {"pixel_values": torch.randn(2, 3, 32, 32)},
    }
    with torch.no_grad():
        towers = {"text": clip.text_model(**inputs["text"]), "image": clip.vision_model(**inputs["image"])}
        for kind, expected in towers.items():
            tokens, _ = load_encoder(str(encoders / "clip"), kind).eval()(inputs[kind])
            assert torch.allclose(tokens, expected.last_hidden_state, atol=1e-6)
            pooled, mask = load_encoder(str(encoders / "clip"), kind, pooled=True).eval()(inputs[kind])
            assert torch.allclose(pooled[:, 0], expected.pooler_output, atol=1e-6)
            assert mask.shape == (2, 1)
        resnet = load_encoder(str(encoders / "resnet"), "image", pooled=True).eval()
        expected = AutoModel.from_pretrained(encoders / "resnet").eval()(**inputs["image"]).pooler_output
        assert torch.allclose(resnet(inputs["image"])[0][:, 0], expected.flatten(1), atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_saved_tokenizer_does_not_depend_on_what_was_read_before(encoders, tmp_path, name):
    encoder = load_encoder(str(encoders / name), "text")
    encoder.save(tmp_path / "before")
    inputs = encoder.prepare([text(1), text(2, 30)], max_length=9)
    encoder.save(tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes(), path.name
    again = encoder.prepare([text(1), text(2, 30)], max_length=9)
    assert torch.equal(again["input_ids"], inputs["input_ids"])
    assert inputs["input_ids"].shape == (2, 9)


def test_no_weights_are_kept_that_are_never_read(encoders):
    for name, kind in (("bert", "text"), ("vit", "image")):
        encoder = load_encoder(str(encoders / name), kind)
        assert not [key for key in encoder.state_dict() if "pooler" in key]


def test_fresh_weights_differ_and_follow_the_seed(encoders):
    torch.manual_seed(1)
    first = load_encoder(str(encoders / "bert"), "text", pretrained=False)
    torch.manual_seed(1)
    second = load_encoder(str(encoders / "bert"), "text", pretrained=False)
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(load_encoder(str(encoders / "bert"), "text"))


def test_long_texts_are_cut(encoders):
    encoder = load_encoder(str(encoders / "bert"), "text")
    assert encoder.prepare([text(1, 50)], max_length=9)["input_ids"].shape == (1, 9)


def test_missing_encoder_says_what_to_place_where(tmp_path):
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_encoder(str(tmp_path / "nothing"), "text")
    with pytest.raises(UserError, match="not installed"):
        resolve("package:no_such_package_here/model")


def test_package_names_become_folders():
    import safetensors

    assert resolve("package:safetensors/torch.py").endswith("torch.py")
    assert resolve("some/folder") == "some/folder"
    assert safetensors.__file__.rsplit("/", 1)[0] in resolve("package:safetensors/torch.py")


@pytest.mark.parametrize("name", ["/no/such", "./none", "~/none", "models/typo", "runs/teachers/none"])
def test_a_mistyped_path_is_never_asked_for_on_the_hub(name, tmp_path, monkeypatch):
    """A path is a path also where it looks like owner/name: its first part is a folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=r"no such model folder: .*give a folder with config\.json"):
        resolve(name)
    assert resolve("bert-base-uncased") == "bert-base-uncased"
    assert resolve("google/vit-base") == "google/vit-base"


def test_marks_in_a_post_are_text(encoders):
    """`[SEP]` in a post is brackets and letters, not the tokenizer's end of a text."""
    from clfa.model.modalities import KINDS

    kind = KINDS["text"]
    tokenizer = kind.load_preparer(encoders / "bert")
    plain = kind.prepare(tokenizer, ["word1 word2"], 16)["input_ids"][0].tolist()
    ids = kind.prepare(tokenizer, ["word1 [SEP] [CLS] [PAD] word2"], 16)["input_ids"][0].tolist()
    assert len(ids) > len(plain)
    for mark in (tokenizer.sep_token_id, tokenizer.cls_token_id):
        assert ids.count(mark) == plain.count(mark) == 1
    assert ids.count(tokenizer.pad_token_id) == 0


def test_batch_norm_remembers_more_than_its_last_batch(encoders):
    encoder = load_encoder(str(encoders / "mobilenet"), "image")
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert encoder.backbone.config.model_type == "mobilenet_v2"
    assert {round(norm.momentum, 4) for norm in norms} == {0.003}


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "vit"])
def test_images_in_pieces_are_images_at_once(encoders, name):
    encoder = load_encoder(str(encoders / name), "image").eval()
    pixels = torch.randn(11, 3, 32, 32)
    with torch.enable_grad():
        expected, mask = encoder({"pixel_values": pixels})
    with torch.no_grad():
        states, own = encoder({"pixel_values": pixels})
    assert encoder.convolves == (name != "vit")
    assert torch.allclose(states, expected, atol=1e-5)
    assert torch.equal(own, mask)
