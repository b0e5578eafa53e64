"""Teachers: any dual encoder, embeddings cached by content, a trained one that retrieves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DIM, make_dataset, picture, text

from clfa.config import CaptionSource, TeacherConfig
from clfa.data.cache import content_key
from clfa.data.images import open_image
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.model.teacher import embed_dataset, load_teacher, teacher_key
from clfa.training import teacher as teachers
from clfa.training.teacher import recalls, train_teacher


def family(folder, encoders, name):
    """A tiny untrained dual encoder of another family, saved as a Hugging Face folder."""
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    words = {**sizes, "vocab_size": 44, "max_position_embeddings": 34, "pad_token_id": 0, "eos_token_id": 3}
    torch.manual_seed(0)
    if name == "siglip":
        model = hf.SiglipModel(hf.SiglipConfig(text_config={**words, "projection_size": 32}, vision_config=vision))
    elif name == "chinese_clip":
        model = hf.ChineseCLIPModel(hf.ChineseCLIPConfig(text_config=words, vision_config=vision, projection_dim=DIM))
    else:
        model = hf.AltCLIPModel(
            hf.AltCLIPConfig(text_config={**words, "project_dim": DIM}, vision_config=vision, projection_dim=DIM)
        )
    model.save_pretrained(folder / name)
    hf.AutoTokenizer.from_pretrained(encoders / "bert").save_pretrained(folder / name)
    hf.AutoImageProcessor.from_pretrained(encoders / "vit", backend="pil").save_pretrained(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["siglip", "chinese_clip", "altclip"])
def test_any_dual_encoder(tmp_path, encoders, name):
    teacher = load_teacher(str(family(tmp_path, encoders, name)))
    texts = teacher.embed("text", [text(1, 3), text(2, 60)])
    images = teacher.embed("image", [open_image(picture(1)), open_image(picture(2))])
    assert texts.shape == images.shape
    assert texts.ndim == 2
    assert torch.isfinite(texts).all()
    assert torch.isfinite(images).all()
    alone = teacher.embed("text", [text(1, 3)])
    assert torch.allclose(alone[0], texts[0], atol=1e-5)  # padding changes nothing


def test_clip_embeddings_are_hugging_faces(encoders):
    from transformers import AutoTokenizer, CLIPModel

    teacher = load_teacher(str(encoders / "clip"))
    clip = CLIPModel.from_pretrained(encoders / "clip").eval()
    inputs = AutoTokenizer.from_pretrained(encoders / "clip")([text(1), text(2)], return_tensors="pt")
    expected = clip.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert torch.allclose(teacher.embed("text", [text(1), text(2)]), expected.pooler_output, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_what_is_no_teacher_is_told(encoders, tmp_path):
    with pytest.raises(UserError, match="not a dual encoder"):
        load_teacher(str(encoders / "bert"))
    with pytest.raises(UserError, match="clfa teacher train"):
        load_teacher(str(tmp_path / "nothing"))


def posts(folder, changed=None):
    def post(split: str, number: int) -> Record:
        seed = number + 10 * len(split)
        words = "word1 word2" if (split, number) == changed else text(seed)
        return Record(f"{split}{number}", words, picture(seed), "ab"[number % 2])

    return make_dataset(folder, {"train": 6, "validation": 6}, post)


def test_embeddings_are_computed_once_and_by_content(tmp_path, encoders):
    clip = str(encoders / "clip")
    first = posts(tmp_path / "first")
    cache, computed = embed_dataset(first, clip, ["train", "validation"])
    assert computed == {"train": 12, "validation": 12}
    path = first / "teachers" / teacher_key(clip) / "000000.safetensors"
    assert path.is_file()
    row = load_split(first, "train")[0]
    teacher = load_teacher(clip)
    assert torch.allclose(cache.get(content_key("text", row["text"])), teacher.embed("text", [row["text"]]), atol=1e-3)
    assert embed_dataset(first, clip, ["train", "validation"])[1] == {"train": 0, "validation": 0}

    second = posts(tmp_path / "second", changed=("train", 3))
    (second / "teachers").mkdir()
    (first / "teachers" / teacher_key(clip)).rename(second / "teachers" / teacher_key(clip))
    assert embed_dataset(second, clip, ["train", "validation"])[1] == {"train": 1, "validation": 0}


def test_broken_cache_is_computed_again(tmp_path, encoders):
    clip, folder = str(encoders / "clip"), posts(tmp_path / "posts")
    embed_dataset(folder, clip, ["train"])
    path = folder / "teachers" / teacher_key(clip) / "000000.safetensors"
    key = content_key("text", load_split(folder, "train")[0]["text"])
    whole = embed_dataset(folder, clip, ["train"])[0].get(key)
    path.write_bytes(path.read_bytes()[:500])
    assert embed_dataset(folder, clip, ["train"])[1] == {"train": 6}  # the other shard is kept
    assert torch.equal(embed_dataset(folder, clip, ["train"])[0].get(key), whole)


def caption_files(folder, count: int = 40) -> CaptionSource:
    """Pictures of one colour each, captioned with a word per colour: a teacher can learn them."""
    from PIL import Image

    folder.mkdir()
    lines = []
    for number in range(count):
        colour = tuple(int(value) for value in np.random.default_rng(number).integers(0, 255, 3))
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        lines += [f"{number}.png#{k}\tword{number} word{(number + k) % 40}" for k in range(2)]
    (folder / "captions.txt").write_text("\n".join(lines))
    return CaptionSource(images=str(folder), captions=str(folder / "captions.txt"))


def config(tmp_path, encoders, **changes) -> TeacherConfig:
    source = caption_files(tmp_path / "captions")
    made = TeacherConfig(
        [source],
        str(encoders / "bert"),
        str(encoders / "resnet"),
        str(tmp_path / "teacher"),
        dim=DIM,
        projection_hidden=32,
        batch_size=8,
        epochs=2,
        held_out=8,
        learning_rate=3e-3,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("frozen", [True, False])
def test_trained_teacher_is_saved_loaded_and_reported(tmp_path, encoders, frozen):
    report = train_teacher(config(tmp_path, encoders, frozen=frozen))
    assert report["images"] == 32
    assert report["held_out_images"] == 8
    assert set(report["retrieval"]) == {"image_to_text", "text_to_image"}
    assert json.loads((tmp_path / "teacher" / "report.json").read_text())["retrieval"] == report["retrieval"]
    teacher = load_teacher(str(tmp_path / "teacher"))
    assert teacher.embed("text", ["word1 word2"]).shape == (1, DIM)
    assert torch.equal(
        teacher.embed("text", ["word1"]), load_teacher(str(tmp_path / "teacher")).embed("text", ["word1"])
    )
    if frozen:  # the encoders are the ones that came in
        ours = teacher.encoders["text"].state_dict()
        from clfa.model.encoders import load_encoder

        given = load_encoder(str(encoders / "bert"), "text").state_dict()
        assert all(torch.equal(ours[name], given[name]) for name in ours)
    with pytest.raises(UserError, match="already holds a teacher"):
        train_teacher(replace(config_of(tmp_path, encoders), frozen=frozen))


def config_of(tmp_path, encoders) -> TeacherConfig:
    source = CaptionSource(images=str(tmp_path / "captions"), captions=str(tmp_path / "captions" / "captions.txt"))
    return TeacherConfig([source], str(encoders / "bert"), str(encoders / "resnet"), str(tmp_path / "teacher"), dim=DIM)


@pytest.mark.slow
def test_teacher_learns_what_it_is_trained_on(tmp_path, encoders):
    """Retrieval among the training pairs themselves, given again as held-out pairs of a second source's twin."""
    made = config(
        tmp_path, encoders, frozen=False, epochs=80, dropout=0.0, held_out=1, batch_size=39, learning_rate=1e-2
    )
    train_teacher(made)
    teacher = load_teacher(made.output)
    folder = tmp_path / "captions"
    images = torch.cat([teacher.embed("image", [open_image((folder / f"{n}.png").read_bytes())]) for n in range(40)])
    texts = teacher.embed("text", [f"word{n} word{n}" for n in range(40)])
    normal = torch.nn.functional.normalize
    found = recalls((normal(images) @ normal(texts).T).numpy(), np.eye(40, dtype=bool))
    assert found["R@5"] > 60  # chance: 12.5 %


def test_frozen_features_are_kept_for_the_next_teacher(tmp_path, encoders, monkeypatch):
    import clfa.training.teacher as module

    made = config(tmp_path, encoders, features=str(tmp_path / "features"))
    train_teacher(made)
    monkeypatch.setattr(module.DualEncoder, "features", lambda *_: pytest.fail("an encoder ran again"))
    monkeypatch.setattr(module, "_retrieval", lambda *_: {})
    train_teacher(replace(made, output=str(tmp_path / "second"), epochs=1))
    assert (tmp_path / "second" / "model.safetensors").is_file()


def test_a_dataset_directory_is_a_source(tmp_path, encoders, dataset):
    source = caption_files(tmp_path / "captions")
    made = TeacherConfig(
        [source, CaptionSource(dataset=str(dataset))],
        str(encoders / "bert"),
        str(encoders / "vit"),
        str(tmp_path / "both"),
        dim=DIM,
        epochs=1,
        batch_size=8,
        held_out=4,
    )
    assert train_teacher(made)["images"] == 36 + 23  # one post of the dataset has no image
    few = replace(made, output=str(tmp_path / "few"), train_images=7)
    report = train_teacher(few)
    assert (report["images"], report["held_out_images"]) == (7, 4)


def test_recalls_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.8]])
    right = np.array([[True, False, False], [False, True, False]])
    assert recalls(similarity, right) == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0}


def test_source_mistakes_are_told(tmp_path, encoders):
    made = config(tmp_path, encoders)
    with pytest.raises(UserError, match="held-out"):
        train_teacher(replace(made, held_out=39))
    (tmp_path / "captions" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png"):
        train_teacher(made)
    with pytest.raises(UserError, match="`images` and `captions`"):
        train_teacher(replace(made, sources=[CaptionSource()]))


class Killed(BaseException):
    """Nobody catches it."""


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_stopped_training_ends_with_the_same_bytes(tmp_path, encoders, frozen, seconds, monkeypatch):
    """Stopped at each step in turn; checkpoints after each step, or at ends of epochs alone."""
    monkeypatch.setattr(teachers, "CHECKPOINT_SECONDS", seconds)
    whole = config(tmp_path, encoders, frozen=frozen, epochs=3, output=str(tmp_path / "whole"))
    train_teacher(whole)
    own = replace(whole, output=str(tmp_path / "own"), features=str(tmp_path / "whole.features"))
    real, stops = teachers.info_nce, 0
    while not (tmp_path / "own").exists():
        left = [1 + stops % 5 if stops < 40 else 10**9]  # steps; an epoch has four

        def dies(*arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments)

        monkeypatch.setattr(teachers, "info_nce", dies)
        try:
            train_teacher(own)
        except Killed:
            stops += 1
    assert stops > 2
    for name in ("model.safetensors", "text/config.json"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "own.checkpoints").exists()
    load_teacher(str(tmp_path / "own"))


def test_checkpoints_of_another_configuration_are_no_start(tmp_path, encoders, monkeypatch):
    made = config(tmp_path, encoders)
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "_retrieval", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train_teacher(made)
    with pytest.raises(UserError, match="is of another configuration"):
        train_teacher(replace(made, learning_rate=0.5))
    (tmp_path / "teacher.checkpoints" / "teacher.json").unlink()
    with pytest.raises(UserError, match="is of another configuration"):
        train_teacher(made)
