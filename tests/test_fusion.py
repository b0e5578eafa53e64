"""What every fusion must hold, and that ours is PyTorch's decoder layer with one context."""

import pytest
import torch
from torch import nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion import FUSIONS, Context, CrossAttentionLayer, build_fusion, pool

DIM, CONFIG = 16, FusionConfig(layers=2, heads=4, feedforward=32)


def states(seed: int, batch: int = 3, tokens: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, DIM, generator=generator), torch.ones(batch, tokens, dtype=torch.bool)


@pytest.fixture(params=sorted(FUSIONS))
def fusion(request) -> nn.Module:
    torch.manual_seed(0)
    config = FusionConfig(request.param, CONFIG.layers, CONFIG.heads, CONFIG.feedforward)
    return build_fusion(DIM, 2, config, "mean").eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, list[Context]]:
    return *states(1), [Context(*states(2, tokens=7)), Context(*states(3, tokens=4))]


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
    (query, query_mask), (keys, keys_mask) = states(1), states(2, tokens=7)
    query_mask[0, 3:] = keys_mask[1, 2:] = False
    expected = theirs(query, keys, tgt_key_padding_mask=~query_mask, memory_key_padding_mask=~keys_mask)
    assert (ours(query, query_mask, [Context(keys, keys_mask)]) - expected).abs().max() < 1e-6


def test_contexts_are_attended_one_after_the_other():
    torch.manual_seed(0)
    layer = CrossAttentionLayer(DIM, 2, CONFIG).eval()
    query, mask, (first, second) = inputs()
    by_hand = query
    for attention, norm, (keys, _, _) in zip(layer.attentions, layer.norms, (Context(query, mask), first, second)):
        by_hand = norm(by_hand + attention(by_hand, keys, keys, need_weights=False)[0])
    by_hand = layer.norms[3](by_hand + layer.feedforward(by_hand))
    assert torch.allclose(layer(query, mask, [first, second]), by_hand, atol=1e-6)
    assert not torch.allclose(layer(query, mask, [second, first]), by_hand, atol=1e-3)


def test_padding_changes_nothing(fusion):
    query, mask, contexts = inputs()
    expected = fusion(query, mask, contexts)

    def padded(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rubbish = torch.full((len(values), 3, DIM), 99.0)
        return torch.cat([values, rubbish], 1), torch.cat([mask, torch.zeros(len(values), 3, dtype=torch.bool)], 1)

    found = fusion(*padded(query, mask), [Context(*padded(c.states, c.mask)) for c in contexts])
    assert torch.allclose(found, expected, atol=1e-5)


def test_batch_is_single_and_order_does_not_matter(fusion):
    query, mask, contexts = inputs()
    together = fusion(query, mask, contexts)
    for row in range(3):
        part = slice(row, row + 1)
        alone = fusion(query[part], mask[part], [Context(c.states[part], c.mask[part]) for c in contexts])
        assert torch.allclose(alone[0], together[row], atol=1e-5)
    order = torch.tensor([2, 0, 1])
    shuffled = fusion(query[order], mask[order], [Context(c.states[order], c.mask[order]) for c in contexts])
    assert torch.allclose(shuffled, together[order], atol=1e-5)


def test_masked_context_content_is_never_read(fusion):
    query, mask, contexts = inputs()
    gone = torch.zeros_like(contexts[1].mask)
    expected = fusion(query, mask, [contexts[0], Context(contexts[1].states, gone)])
    found = fusion(query, mask, [contexts[0], Context(contexts[1].states * 50 + 7, gone)])
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


def test_masked_context_is_absent_context():
    torch.manual_seed(0)
    layer = CrossAttentionLayer(DIM, 1, CONFIG).eval()
    (query, mask), (keys, keys_mask) = states(1), states(2)
    without = CrossAttentionLayer(DIM, 0, CONFIG).eval()
    without.attentions[0].load_state_dict(layer.attentions[0].state_dict())
    without.feedforward.load_state_dict(layer.feedforward.state_dict())
    without.norms[0].load_state_dict(layer.norms[0].state_dict())
    without.norms[1].load_state_dict(layer.norms[2].state_dict())
    found = layer(query, mask, [Context(keys, torch.zeros_like(keys_mask))])
    assert torch.allclose(found, without(query, mask, []), atol=1e-6)


def test_every_parameter_gets_a_gradient(fusion):
    fusion.train()
    fusion(*inputs()).square().sum().backward()
    idle = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


def test_bfloat16_is_close_to_fp32(fusion):
    query, mask, contexts = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = fusion(query, mask, contexts)
    assert (found.float() - fusion(query, mask, contexts)).abs().max() < 0.1


def test_bias_steers_attention():
    torch.manual_seed(0)
    layer = CrossAttentionLayer(DIM, 1, CONFIG).eval()
    (query, mask), (keys, keys_mask) = states(1), states(2)
    only_third = torch.full((3, 5, 5), -1e9)
    only_third[:, :, 2] = 0
    steered = layer(query, mask, [Context(keys, keys_mask, only_third)])
    alone = layer(query, mask, [Context(keys[:, 2:3], keys_mask[:, 2:3])])
    assert torch.allclose(steered, alone, atol=1e-5)
    zero = layer(query, mask, [Context(keys, keys_mask, torch.zeros(3, 5, 5))])
    assert torch.allclose(zero, layer(query, mask, [Context(keys, keys_mask)]), atol=1e-6)


def test_pooling():
    values = torch.tensor([[[1.0, 5.0], [3.0, -1.0], [99.0, 99.0]], [[2.0, 2.0], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(values, mask, "mean").tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert pool(values, mask, "max").tolist() == [[3.0, 5.0], [0.0, 0.0]]
    assert pool(values, mask, "cls").tolist() == [[1.0, 5.0], [0.0, 0.0]]


def test_unknown_fusion_and_bad_heads_are_told():
    with pytest.raises(UserError, match="cross_attention"):
        build_fusion(DIM, 1, FusionConfig("transformer"), "mean")
    with pytest.raises(UserError, match="divide"):
        build_fusion(DIM, 1, FusionConfig(heads=3), "mean")
