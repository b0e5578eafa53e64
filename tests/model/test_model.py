"""The classifier: padding, batches, missing pictures, shared encoders, saved = loaded to the bit."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import DIM, make_dataset, picture, text

from clfa.config import FusionConfig, LossConfig, ModalityConfig, ModelConfig
from clfa.data.records import Record
from clfa.data.rows import Rows
from clfa.data.seal import seal
from clfa.errors import UserError
from clfa.fusion import FUSIONS
from clfa.losses import info_nce
from clfa.model.batch import Batch, Collator
from clfa.model.blend import Blend
from clfa.model.classifier import Classifier, build_classifier
from clfa.model.pipeline import Pipeline
from clfa.training.objective import objective


def config(encoders, image="vit", text_encoder="bert", **modalities) -> ModelConfig:
    found = {
        "text": ModalityConfig("text", str(encoders / text_encoder), max_length=16),
        "image": ModalityConfig("image", str(encoders / image)),
        **modalities,
    }
    return ModelConfig(found, DIM, 32, FusionConfig(layers=2, heads=2, feedforward=32))


def build(model_config: ModelConfig, classes: int = 3) -> tuple[Classifier, Collator]:
    torch.manual_seed(0)
    model = build_classifier(model_config, [f"class{number}" for number in range(classes)]).eval()
    return model, Pipeline(model, device="cpu").collate


def posts(count: int = 5) -> list[dict]:
    return [{"text": text(n, 2 + n), "image": {"bytes": picture(n)}, "knowledge": text(50 + n)} for n in range(count)]


@pytest.mark.parametrize("image", ["vit", "deit", "swin", "resnet", "mobilenet"])
@pytest.mark.parametrize("text_encoder", ["bert", "roberta"])
def test_any_pair_of_encoders(encoders, image, text_encoder):
    model, collator = build(config(encoders, image, text_encoder))
    output = model(collator(posts()))
    assert output.logits.shape == (5, 3)
    assert output.fused.shape == output.embeds["text"].shape == output.embeds["image"].shape == (5, DIM)
    assert output.states["image"].shape[:2] == output.masks["image"].shape


def test_batch_is_single_and_permutation(encoders):
    model, collator = build(config(encoders))
    together = model(collator(posts())).logits
    for number, post in enumerate(posts()):
        assert torch.allclose(model(collator([post])).logits[0], together[number], atol=1e-5)
    order = [3, 1, 4, 0, 2]
    shuffled = model(collator([posts()[number] for number in order])).logits
    assert torch.allclose(shuffled, together[order], atol=1e-5)


def test_missing_image_is_masked_not_zero(encoders):
    model, collator = build(config(encoders))
    without = {**posts()[0], "image": None}
    batch = collator([without])
    found = model(batch).logits
    assert not batch.modalities["image"].present.any()
    # whatever stands there is never looked at
    batch.modalities["image"].inputs["pixel_values"] = torch.randn(1, 3, 32, 32) * 9
    assert torch.allclose(model(batch).logits, found, atol=1e-6)
    assert model(batch).embeds["image"].abs().sum() == 0
    assert not torch.allclose(model(collator(posts()[:1])).logits, found, atol=1e-4)


def test_knowledge_shares_encoder_and_projection(encoders):
    extra = ModalityConfig("text", shares="text", align=False, max_length=16)
    model, collator = build(config(encoders, knowledge=extra))
    assert set(model.encoders) == set(model.projections) == {"text", "image"}
    rows = posts(2)
    same = model(collator([{**rows[0], "knowledge": rows[0]["text"]}]))
    assert torch.allclose(same.states["knowledge"], same.states["text"], atol=1e-6)
    missing = model(collator([{**rows[0], "knowledge": None}, rows[1]]))
    assert torch.isfinite(missing.logits).all()


def test_additive_bias_per_context(encoders):
    model, collator = build(config(encoders))
    batch = collator(posts(2))
    plain = model(batch).logits
    shape = (2, batch.modalities["text"].length, 17)

    def with_bias(bias: torch.Tensor) -> torch.Tensor:
        image = replace(batch.modalities["image"], bias=bias)
        return model(Batch({**batch.modalities, "image": image})).logits

    assert torch.allclose(with_bias(torch.zeros(shape)), plain, atol=1e-6)
    assert not torch.allclose(with_bias(9 * torch.randn(shape)), plain, atol=1e-4)


def test_a_caption_may_be_an_alignment_target_alone(encoders):
    """It gets a gradient from the loss, is no context, and is not needed to predict."""
    extra = ModalityConfig("text", shares="text", align=False, fused=False, max_length=16)
    model, collator = build(config(encoders, knowledge=extra))
    with_caption, without = posts(4), [{**post, "knowledge": None} for post in posts(4)]
    assert torch.equal(model(collator(with_caption)).logits, model(collator(without)).logits)
    model.train()
    batch = replace(collator(with_caption), labels=torch.tensor([0, 1, 2, 0]))
    batch.modalities["knowledge"].present[0] = False
    loss = LossConfig(alignment_target="knowledge", temperature=0.1)
    output = model(batch)
    terms = objective(output, batch, loss, model.config)
    expected = info_nce(output.embeds["image"][1:], output.embeds["knowledge"][1:], 0.1)
    assert torch.allclose(terms["alignment_loss_image"], expected)
    assert torch.allclose(terms["loss"], terms["classification_loss"] + expected)
    batch.modalities["knowledge"].present[:] = False
    assert objective(model(batch), batch, loss, model.config)["alignment_loss_image"] == 0


def test_penalty_of_a_fusion_is_a_term_of_the_loss(encoders):
    found = config(encoders)
    model, collator = build(ModelConfig(found.modalities, DIM, 32, FusionConfig("dr_net")))
    batch = replace(collator(posts(2)), labels=torch.tensor([0, 1]))
    terms = objective(model(batch), batch, LossConfig(alignment_weight=0), model.config)
    assert terms["penalty"] > 0
    assert torch.allclose(terms["loss"], terms["classification_loss"] + terms["penalty"])


def test_knowledge_that_a_fusion_does_not_read_is_refused(encoders):
    for key, value in (("graph", "window"), ("polarity", "vader")):
        extra = ModalityConfig("text", shares="text", align=False, **{key: value})
        found = config(encoders, knowledge=extra)
        with pytest.raises(UserError, match=f"concat reads no {key}"):
            build(ModelConfig(found.modalities, DIM, 32, FusionConfig("concat")))
    # only self-attention reads the bias of the query with itself
    found = config(encoders, text=ModalityConfig("text", str(encoders / "bert"), polarity="vader"))
    with pytest.raises(
        UserError, match=r"co_attention reads no polarity of text: set model\.modalities\.text\.polarity"
    ):
        build(ModelConfig(found.modalities, DIM, 32, FusionConfig("co_attention")))
    build(found)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_any_fusion_through_the_whole_model(encoders, name):
    """Cached or not, alone or in a batch, saved or not: the same logits; pictures get the grid as their graph."""
    graph = "window" if FUSIONS[name].reads_edges else None
    found = config(encoders, text=ModalityConfig("text", str(encoders / "bert"), max_length=16, graph=graph))
    model, collator = build(ModelConfig(found.modalities, DIM, 32, FusionConfig(name, 2, 2, 32)))
    together = model(collator(posts())).logits
    for number, post in enumerate(posts()):
        assert torch.allclose(model(collator([post])).logits[0], together[number], atol=1e-5)


@pytest.mark.parametrize("name", ["text", "image"])
def test_one_modality_alone(encoders, name):
    both = config(encoders)
    model, collator = build(ModelConfig({name: both.modalities[name]}, DIM, 32, both.fusion))
    assert model(collator(posts())).logits.shape == (5, 3)


def test_frozen_encoder_gets_no_gradient_and_no_dropout(encoders):
    frozen = ModalityConfig("text", str(encoders / "bert"), frozen=True, max_length=16)
    model, collator = build(config(encoders, text=frozen))
    model.train()
    batch = collator(posts())
    model(batch).logits.sum().backward()
    assert all(p.grad is None for p in model.encoders["text"].parameters())
    assert any(p.grad is not None for p in model.encoders["image"].parameters())
    assert not model.encoders["text"].training
    inputs = batch.modalities["text"]
    assert torch.equal(model.encode("text", inputs)[0], model.encode("text", inputs)[0])


def test_every_trained_parameter_gets_a_gradient(encoders):
    model, collator = build(config(encoders))
    model.train()
    output = model(collator(posts()))
    (output.logits.square().sum() + output.embeds["image"].square().sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_saved_is_loaded_to_the_bit(encoders, tmp_path):
    model, collator = build(config(encoders, "resnet"))
    model.save_pretrained(tmp_path / "saved")
    loaded = Classifier.from_pretrained(tmp_path / "saved")
    batch = collator(posts())
    assert torch.equal(loaded(batch).logits, model(batch).logits)
    assert loaded.class_names == model.class_names
    assert loaded.config == model.config
    reread = Pipeline(loaded, device="cpu").collate(posts())
    for name, inputs in batch.modalities.items():
        assert all(torch.equal(reread.modalities[name].inputs[key], value) for key, value in inputs.inputs.items())


def test_saved_folder_holds_no_pickle(encoders, tmp_path):
    build(config(encoders))[0].save_pretrained(tmp_path)
    endings = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert endings <= {".json", ".safetensors", ".txt", ".jinja"}


def test_broken_folders_are_told(encoders, tmp_path):
    with pytest.raises(UserError, match="clfa train"):
        Classifier.from_pretrained(tmp_path)
    build(config(encoders))[0].save_pretrained(tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())
    described["model"]["dim"] = 48
    (tmp_path / "model.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"not what was written \(model\.json"):
        Classifier.from_pretrained(tmp_path)
    seal(tmp_path, [tmp_path / "model.json", tmp_path / "model.safetensors"])
    with pytest.raises(UserError, match="does not fit"):
        Classifier.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="shares 'speech'"):
        build(config(encoders, knowledge=ModalityConfig("text", shares="speech")))


def test_a_query_that_is_not_fused_is_told_how_to_mend(encoders):
    found = config(encoders)
    unfused = replace(found.modalities["text"], fused=False)
    with pytest.raises(UserError, match=r"model\.modalities\.text is the first .* fused: false: put it behind"):
        build(replace(found, modalities={**found.modalities, "text": unfused}))


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_a_learned_vector_stands_in_for_what_is_missing(encoders, name):
    """Whatever lies under the mask, the query may be missing, and only the fusion sees the stand-in."""
    graph = "window" if FUSIONS[name].reads_edges else None
    found = config(encoders, text=ModalityConfig("text", str(encoders / "bert"), max_length=16, graph=graph))
    model, collator = build(ModelConfig(found.modalities, DIM, 32, FusionConfig(name, 2, 2, 32), missing="token"))
    rows = posts(3)
    rows[0]["image"], rows[1]["text"], rows[2]["text"] = None, "", None
    batch = collator(rows)
    output = model(batch)
    assert batch.modalities["text"].present.tolist() == [True, False, False]
    assert output.masks["text"].any(1).tolist() == [True, False, False]
    assert output.embeds["image"][0].abs().sum() == output.embeds["text"][1:].abs().sum() == 0
    assert not torch.allclose(output.logits[1], output.logits[2], atol=1e-6)
    batch.modalities["image"].inputs["pixel_values"][0] = torch.randn(3, 32, 32) * 9
    assert torch.allclose(model(batch).logits, output.logits, atol=1e-6)
    for number, post in enumerate(rows):
        assert torch.allclose(model(collator([post])).logits[0], output.logits[number], atol=1e-5)
    torch.autograd.backward(model.train()(batch).logits.square().sum())
    assert all(vector.grad.abs().sum() > 0 for vector in model.stand_ins.values())


def test_masked_there_is_no_stand_in_and_an_empty_text_is_a_text(encoders):
    model, collator = build(config(encoders))
    assert not any("stand_ins" in name for name in model.state_dict())
    assert collator([{**posts(1)[0], "text": ""}]).modalities["text"].present.all()


def test_members_of_a_blend_read_an_empty_text_as_they_do_alone(encoders):
    pairs = {one: build(replace(config(encoders), missing=one)) for one in ("masked", "token")}
    blend = Blend({one: model for one, (model, _) in pairs.items()}).eval()
    rows = [{**posts(1)[0], "text": ""}, posts(2)[1]]
    batch = Pipeline(blend, device="cpu").collate(rows)
    assert [batch.modalities[f"{one}_text"].present.tolist() for one in pairs] == [[True, True], [False, True]]
    alone = [model(collate(rows)).logits.log_softmax(1) for model, collate in pairs.values()]
    assert torch.allclose(blend(batch).logits, torch.stack(alone).mean(0), atol=1e-5)


def test_an_empty_text_is_missing_with_cached_states_too(encoders, tmp_path):
    """Whether it is stored in the data set or in a changed row; its states are in the cache, and are not read."""

    def post(split: str, number: int) -> Record:
        return Record(str(number), ["", "word1"][number % 2], picture(number) if number else None, "ab"[number % 2])

    dataset = make_dataset(tmp_path / "posts", {"train": 4, "validation": 4}, post)
    frozen = ModalityConfig("text", str(encoders / "bert"), frozen=True, max_length=16)
    model, _ = build(replace(config(encoders, text=frozen), missing="token"))
    pipeline = Pipeline(model, device="cpu")
    pipeline.cache(dataset, ["train"])
    rows = Rows(dataset, ["train"])
    batch = pipeline.collate([rows[1], rows[1].replace(text=""), rows[0]])
    assert batch.modalities["text"].states is not None
    assert batch.modalities["text"].present.tolist() == [True, False, False]
    assert batch.modalities["image"].present.tolist() == [True, True, False]
