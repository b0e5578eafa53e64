"""What every fusion must hold, and that CLFA's is PyTorch's decoder with one context. Values by hand: test_by_hand.py."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion import (
    FUSIONS,
    CrossAttentionLayer,
    Fusion,
    Tokens,
    build_fusion,
    read_own_fusions,
    window_edges,
)

read_own_fusions()  # CLFA_FUSIONS=mine.py pytest tests/fusion/test_fusion.py checks yours as well
DIM, CONFIG = 16, FusionConfig(layers=2, heads=4, feedforward=32)


NAMES = ("image", "knowledge")


def tokens(seed: int, count: int = 5, batch: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randn(batch, count, DIM, generator=generator), torch.ones(batch, count, dtype=torch.bool))


def build(name: str, contexts: int = 2) -> Fusion:
    torch.manual_seed(0)
    config = FusionConfig(name, CONFIG.layers, CONFIG.heads, CONFIG.feedforward)
    return build_fusion(DIM, NAMES[:contexts], config, "mean").eval()


@pytest.fixture(params=sorted(FUSIONS))
def fusion(request) -> Fusion:
    return build(request.param)


def inputs() -> tuple[Tokens, dict[str, Tokens]]:
    return tokens(1), {"image": tokens(2, 7), "knowledge": tokens(3, 4)}


def padded(given: Tokens) -> Tokens:
    rubbish, gone = torch.full((len(given.mask), 3, DIM), 99.0), torch.zeros(len(given.mask), 3, dtype=torch.bool)
    return Tokens(torch.cat([given.states, rubbish], 1), torch.cat([given.mask, gone], 1))


def rows(given: Tokens, which) -> Tokens:
    return Tokens(given.states[which], given.mask[which])


def each(function, contexts: dict[str, Tokens], *arguments) -> dict[str, Tokens]:
    return {name: function(context, *arguments) for name, context in contexts.items()}


def test_one_layer_is_torchs_decoder_layer():
    torch.manual_seed(0)
    ours = CrossAttentionLayer(DIM, 1, CONFIG).eval()
    theirs = nn.TransformerDecoderLayer(
        DIM, CONFIG.heads, CONFIG.feedforward, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    ours.attentions[0].load_state_dict(theirs.self_attn.state_dict())
    ours.attentions[1].load_state_dict(theirs.multihead_attn.state_dict())
    ours.feedforward[0].load_state_dict(theirs.linear1.state_dict())
    ours.feedforward[3].load_state_dict(theirs.linear2.state_dict())
    for norm, other in zip(ours.norms, (theirs.norm1, theirs.norm2, theirs.norm3)):
        norm.load_state_dict(other.state_dict())
    query, keys = tokens(1), tokens(2, 7)
    query.mask[0, 3:] = keys.mask[1, 2:] = False
    expected = theirs(query.states, keys.states, tgt_key_padding_mask=~query.mask, memory_key_padding_mask=~keys.mask)
    assert (ours(query, [keys]).states - expected).abs().max() < 1e-6


def test_the_whole_stack_is_torchs_decoder():
    fusion = build("cross_attention", 1)
    layer = nn.TransformerDecoderLayer(DIM, CONFIG.heads, CONFIG.feedforward, activation="gelu", batch_first=True)
    theirs = nn.TransformerDecoder(layer, CONFIG.layers).eval()
    of_torch = ("self_attn", "multihead_attn", "linear1", "linear2", "norm1", "norm2", "norm3")
    of_ours = ("attentions.0", "attentions.1", "feedforward.0", "feedforward.3", "norms.0", "norms.1", "norms.2")
    for ours, other in zip(fusion.layers, theirs.layers):
        for mine, name in zip(of_ours, of_torch):
            getattr(other, name).load_state_dict(ours.get_submodule(mine).state_dict())
    query, image = tokens(1), tokens(2, 7)
    expected = theirs(query.states, image.states).mean(1)
    assert torch.allclose(fusion(query, {"image": image}), expected, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_shapes_with_any_number_of_contexts(name, count):
    query, contexts = inputs()
    found = build(name, count)(query, {key: contexts[key] for key in NAMES[:count]})
    assert found.shape == (3, DIM)
    assert torch.isfinite(found).all()


def test_something_is_read_of_query_and_contexts(fusion):
    query, contexts = inputs()
    expected = fusion(query, contexts)
    assert not torch.allclose(fusion(replace(query, states=query.states.flip(2)), contexts), expected, atol=1e-4)
    for seed, (name, context) in enumerate(contexts.items()):
        other = {**contexts, name: tokens(7 + seed, context.mask.shape[1])}
        assert not torch.allclose(fusion(query, other), expected, atol=1e-4)


def test_contexts_have_names_not_places(fusion):
    query, contexts = inputs()
    backwards = dict(reversed(contexts.items()))
    assert torch.allclose(fusion(query, backwards), fusion(query, contexts), atol=1e-5)


def test_padding_changes_nothing(fusion):
    query, contexts = inputs()
    assert torch.allclose(fusion(padded(query), each(padded, contexts)), fusion(query, contexts), atol=1e-5)


def test_batch_is_single_and_order_does_not_matter(fusion):
    query, contexts = inputs()
    together = fusion(query, contexts)
    for row in range(3):
        alone = fusion(rows(query, [row]), each(rows, contexts, [row]))
        assert torch.allclose(alone[0], together[row], atol=1e-5)
    order = [2, 0, 1]
    shuffled = fusion(rows(query, order), each(rows, contexts, order))
    assert torch.allclose(shuffled, together[order], atol=1e-5)


def test_masked_context_content_is_never_read(fusion):
    query, contexts = inputs()
    gone = replace(contexts["knowledge"], mask=torch.zeros_like(contexts["knowledge"].mask))
    expected = fusion(query, {**contexts, "knowledge": gone})
    found = fusion(query, {**contexts, "knowledge": replace(gone, states=gone.states * 50 + 7)})
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


def test_masked_context_is_absent_context(fusion):
    """For one post of a batch: no matter how many tokens stand there, what they are, and what their biases and edges say."""
    query, contexts = inputs()
    before = fusion(query, contexts)[1]
    contexts["knowledge"].mask[1] = False
    expected = fusion(query, contexts)[1]
    short = Tokens(
        torch.randn(1, 1, DIM), torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, 1, 1), torch.randn(1, 5, 1)
    )
    alone = fusion(rows(query, [1]), {"image": rows(contexts["image"], [1]), "knowledge": short})
    assert torch.allclose(alone[0], expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-4)


@pytest.mark.parametrize("gone", [(), ("image",), NAMES])
def test_a_query_without_tokens(fusion, gone):
    """A post without text, its image or anything: finite numbers and gradients, and nothing is read of what is masked."""
    query, contexts = inputs()
    others = fusion(query, contexts)[[0, 2]]
    masked = [query, *(contexts[name] for name in gone)]
    for one in masked:
        one.mask[1] = False
    every = [query, *contexts.values()]
    for one in every:
        one.states.requires_grad_()
    found = fusion(query, contexts)
    assert torch.isfinite(found).all()
    assert torch.allclose(found[[0, 2]], others, atol=1e-5)
    found.square().sum().backward()
    gradients = [one.states.grad for one in every] + [weight.grad for weight in fusion.parameters()]
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)
    assert not any(one.states.grad[1].any() for one in masked)
    with torch.no_grad():
        for one in masked:
            one.states[1] = 50 * one.states[1] + 7
    assert torch.equal(fusion(query, contexts), found)


def test_a_batch_without_any_text(fusion):
    query, contexts = inputs()
    query.mask[:] = False
    query.states.requires_grad_()
    found = fusion(query, contexts)
    found.square().sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(query.states.grad).all()


@pytest.mark.parametrize("name", ["cross_attention", "co_attention", "pool", "hfm", "in_cross_graphs", "cmgcn", "hke"])
def test_masked_context_is_a_fusion_without_it(name):
    """Where the weights do not depend on the number of contexts: the fusion built without the context says the same."""
    query, contexts = inputs()
    both, one = build(name, 2), build(name, 1)
    own = {key: value.shape for key, value in one.state_dict().items()}
    if name == "cross_attention":  # its last norm counts the contexts
        shifted = {
            key.replace("norms.2.", "norms.3.") if key.endswith(("norms.2.weight", "norms.2.bias")) else key
            for key in own
        }
        taken = dict(zip(sorted(own), (both.state_dict()[key] for key in sorted(shifted))))
    else:
        taken = {key: value for key, value in both.state_dict().items() if own.get(key) == value.shape}
    assert taken.keys() == own.keys()
    one.load_state_dict(taken)
    contexts["knowledge"].mask[:] = False
    assert torch.allclose(both(query, contexts), one(query, {"image": contexts["image"]}), atol=1e-5)


def test_every_parameter_gets_a_gradient(fusion):
    query, contexts = inputs()
    query.states.requires_grad_()
    fusion(query, contexts).square().sum().backward()
    assert query.states.grad.abs().sum() > 0
    idle = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


def test_bfloat16_is_close_to_fp32(fusion):
    query, contexts = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = fusion(query, contexts)
    expected = fusion(query, contexts)
    assert (found.float() - expected).abs().max() < 0.02 + 0.03 * expected.abs().max()


def test_saved_is_loaded(fusion, tmp_path):
    save_file(fusion.state_dict(), tmp_path / "fusion.safetensors")
    name = next(key for key, value in FUSIONS.items() if type(fusion) is value)
    torch.manual_seed(1)
    config = FusionConfig(name, CONFIG.layers, CONFIG.heads, CONFIG.feedforward)
    other = build_fusion(DIM, NAMES, config, "mean").eval()
    other.load_state_dict(load_file(tmp_path / "fusion.safetensors"))
    assert torch.equal(other(*inputs()), fusion(*inputs()))


@pytest.mark.parametrize("name", [name for name in sorted(FUSIONS) if FUSIONS[name].reads_edges])
def test_graphs_are_read(name):
    query, contexts = inputs()
    fusion = build(name)
    window = window_edges(query.mask)
    expected = fusion(query, contexts)
    assert torch.allclose(fusion(replace(query, edges=window), contexts), expected, atol=1e-6)
    near = replace(query, edges=window_edges(query.mask, 1))
    assert not torch.allclose(fusion(near, contexts), expected, atol=1e-4)
    with_edges = {key: replace(context, edges=window_edges(context.mask)) for key, context in contexts.items()}
    assert torch.allclose(fusion(query, with_edges), expected, atol=1e-6)
    # padded graphs: nothing goes along edges that are not there
    wide = replace(padded(query), edges=nn.functional.pad(window, (0, 3, 0, 3)))
    assert torch.allclose(fusion(wide, each(padded, contexts)), expected, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in sorted(FUSIONS) if FUSIONS[name].reads_bias])
def test_bias_between_words_and_context_is_read(name):
    query, contexts = inputs()
    fusion = build(name)
    plain = fusion(query, contexts)
    for key, context in contexts.items():
        bias = torch.randn(3, 5, context.mask.shape[1], generator=torch.Generator().manual_seed(5))
        without = {**contexts, key: replace(context, bias=torch.zeros_like(bias))}
        assert torch.allclose(fusion(query, without), plain, atol=1e-6)
        assert not torch.allclose(fusion(query, {**contexts, key: replace(context, bias=bias)}), plain, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in sorted(FUSIONS) if not FUSIONS[name].reads_edges])
def test_graphs_are_not_read_by_others(name):
    query, contexts = inputs()
    near = replace(query, edges=window_edges(query.mask, 1))
    assert torch.equal(build(name)(near, contexts), build(name)(query, contexts))


def test_penalty_makes_shared_and_private_maps_orthogonal():
    fusion = build("dr_net", 1)
    before = fusion.penalty().item()
    assert 0.1 < before < 0.4
    optimizer = torch.optim.SGD(fusion.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        fusion.penalty().backward()
        optimizer.step()
    assert fusion.penalty() < before / 10
    assert fusion.shared.weight.norm() > 0.5  # turned, not shrunk


def test_unknown_fusion_and_bad_heads_are_refused():
    with pytest.raises(UserError, match="cross_attention"):
        build_fusion(DIM, NAMES, FusionConfig("transformer"), "mean")
    with pytest.raises(UserError, match="divide"):
        build_fusion(DIM, NAMES, FusionConfig(heads=3), "mean")


def test_a_class_that_is_no_fusion_is_refused(monkeypatch):
    class Loose(nn.Module):
        """Derives from the wrong class."""

    monkeypatch.setitem(FUSIONS, "loose", Loose)
    with pytest.raises(UserError, match=r"class Loose\(Fusion\)"):
        build_fusion(DIM, NAMES, FusionConfig("loose"), "mean")
