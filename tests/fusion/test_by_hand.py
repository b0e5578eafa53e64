"""Every fusion on posts so small that its equation is worked out with pencil and paper.

All weights are 0 but those that a test names (norms stay as they begin), so attention is uniform where a test sets no score.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion import (
    CrossAttentionLayer,
    Fusion,
    GraphConvolution,
    Tokens,
    build_fusion,
    grid_edges,
    pool,
    retrieve,
    window_edges,
)
from clfa.fusion.graphs import cross_edges

ONE, NONE = torch.eye(2), torch.zeros(2, 2)


def tokens(*states: tuple[float, ...]) -> Tokens:
    """One post."""
    return Tokens(torch.tensor([states]), torch.ones(1, len(states), dtype=torch.bool))


def quiet(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The module with these weights and no others."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        for name, value in weights.items():
            module.get_parameter(name).copy_(value)
    return module.eval()


def build(name: str, weights: dict[str, Tensor], dim: int = 2, contexts: int = 1, layers: int = 1) -> Fusion:
    config = FusionConfig(name, layers, 1, dim)
    return quiet(build_fusion(dim, ("image", "further")[:contexts], config, "mean"), weights)


def answer(fusion: Fusion, query: Tokens, *contexts: Tokens) -> list[float]:
    return fusion(query, dict(zip(("image", "further"), contexts)))[0].tolist()


def near(*values: float):
    return pytest.approx(list(values), abs=5e-4)


def test_contexts_are_attended_one_after_the_other():
    """A context of one token gives itself to attention: h = LN(LN(x + c_1) + c_2), and LN of two numbers is 1 and -1."""
    copies = {"in_proj_weight": torch.cat([NONE, NONE, ONE]), "out_proj.weight": ONE}
    weights = {f"attentions.{n}.{name}": value for n in (0, 1) for name, value in copies.items()}
    layer = quiet(CrossAttentionLayer(2, 2, FusionConfig(heads=1, feedforward=4), self_attention=False), weights)
    x, first, second = tokens((1.0, 1.0)), tokens((3.0, 0.0)), tokens((0.0, 4.0))
    # (1, 1) + (3, 0) = (4, 1) -> (1, -1);  + (0, 4) = (1, 3) -> (-1, 1)
    assert layer(x, [first, second]).states[0, 0].tolist() == near(-1, 1)
    # (1, 1) + (0, 4) = (1, 5) -> (-1, 1);  + (3, 0) = (2, 1) -> (1, -1)
    assert layer(x, [second, first]).states[0, 0].tolist() == near(1, -1)


def test_co_attention():
    """Lu et al. 2016, equations 3–5 and 7, with all weights 1, t = (1, 0) and v = (1, -1)."""
    every = ("query_map.weight", "query_score.weight", "affinities.0.weight", "maps.0.weight", "scores.0.weight")
    fusion = build("co_attention", dict.fromkeys((*every, "out.weight"), torch.ones(1, 1)), dim=1)
    # C = tanh([[1, -1], [0, 0]]) = [[.7616, -.7616], [0, 0]]
    # H_t = tanh(1 + .7616 + .7616, 0) = (.9872, 0), a_t = (.7285, .2715), sum .7285
    # H_v = tanh(1 + .7616, -1 - .7616) = (.9427, -.9427), a_v = (.8682, .1318), sum .7364
    assert answer(fusion, tokens((1.0,), (0.0,)), tokens((1.0,), (-1.0,))) == near(math.tanh(0.72853 + 0.73644))


def test_att_bert():
    query, image = tokens((1.0, 0.0), (0.0, 1.0)), tokens((5.0, 5.0))
    # C = tanh([[2, 0], [0, 0]]), best of each hashtag (.9640, 0), a = (.7239, .2761)
    intra = build("att_bert", {"affinities.0.weight": ONE, "out.weight": torch.cat([NONE, ONE], 1)}, 2, 2, 0)
    assert answer(intra, query, image, tokens((2.0, 0.0), (0.0, 0.0))) == near(2 * 0.72393, 0)
    inter = build("att_bert", {"inter.0.weight": ONE, "out.weight": torch.cat([ONE, NONE], 1)}, 2, 2, 0)
    assert answer(inter, query, image, tokens((2.0, 0.0))) == near(math.tanh(0.5), math.tanh(0.5))


def test_cmgcn():
    """One word and two regions: the regions meet in the word alone. The LSTM is silent: the word brings nothing itself."""
    fusion = build("cmgcn", {"layers.0.map.weight": ONE})
    # A = [[1, 2, 1], [2, 1, 0], [1, 0, 1]], divided by 5, 4, 3: x = (.4, .2), (.25, 0), (0, .3333)
    # mean of what went in (.3333, .3333): scores .2, .0833, .1111 over sqrt(2), weights .34966, .32198, .32836
    expected = near(0.34966 * 0.4 + 0.32198 * 0.25, 0.34966 * 0.2 + 0.32836 / 3)
    assert answer(fusion, tokens((1.0, 0.0)), tokens((1.0, 0.0), (0.0, 1.0))) == expected


def test_in_cross_graphs():
    """One word and one patch alike: inside x/2, across (1·x + 2·x)/4."""
    weights = {"inside.0.0.map.weight": ONE, "inside.0.1.map.weight": ONE, "across.0.map.weight": ONE}
    assert answer(build("in_cross_graphs", weights), tokens((1.0, 0.0)), tokens((1.0, 0.0))) == near(3 / 8, 0)


def test_hke():
    """Norms make (1, -1) of (3, 1) and of (5, 1), (-1, 1) of (0, 2): congruity is ±2 / sqrt(2)."""
    places = torch.zeros(2, 1024, 2)
    places[0, :2] = ONE  # what the first patch says goes to the first number, the second's to the second
    fusion = build("hke", {"congruities.0.places": places}, layers=0)
    # sqrt(2) patches · 1/2 each · (2, -2) / sqrt(2)
    assert answer(fusion, tokens((3.0, 1.0)), tokens((5.0, 1.0), (0.0, 2.0))) == near(1, -1)
    # the graphs of one node: ReLU makes (1, 0) of it and the norm (1, -1) again
    graphs = {f"congruities.0.{side}_graph.{n}.map.weight": ONE for side in ("text", "context") for n in (0, 1)}
    places = torch.zeros(2, 1024, 2)
    places[1, 0] = torch.tensor([1.0, 2.0])
    fusion = build("hke", {"congruities.0.places": places, **graphs}, layers=0)
    assert answer(fusion, tokens((3.0, 1.0)), tokens((5.0, 1.0))) == near(2**0.5, 2 * 2**0.5)
    assert answer(fusion, tokens((3.0, 1.0)), tokens((0.0, 2.0))) == near(-(2**0.5), -2 * 2**0.5)
    # two neighbours that are opposites become their mean, 0
    assert answer(fusion, tokens((3.0, 1.0)), tokens((2.0, 0.0), (0.0, 2.0))) == near(0, 0)


@pytest.mark.parametrize("words", [3, 40])
@pytest.mark.parametrize("patches", [5, 49, 196])
@pytest.mark.parametrize("dim", [16, 128])
def test_hke_begins_with_outputs_of_order_one(dim, patches, words):
    """However many tokens there are; they were 0.007 to 0.04, which a small learning rate never left."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(32, count, dim, generator=generator) for count in (words, patches)]
    query, image = (Tokens(one, torch.ones(one.shape[:2], dtype=torch.bool)) for one in states)
    torch.manual_seed(0)
    fusion = build_fusion(dim, ("image",), FusionConfig("hke", 2, 4, 2 * dim), "mean").eval()
    assert 0.2 < fusion(query, {"image": image}).std(0).mean() < 2


def test_multi_view():
    """Views GELU(10) = 10 and GELU(20 + 5) = 25, both together (10 + 20) / 2; without an image 10, 0 and 10."""
    ones = torch.ones(1, 1)
    views = {"views.0.0.weight": ones, "views.1.0.weight": ones, "views.1.0.bias": 5 * ones[0]}
    fusion = build("multi_view", {**views, "out.weight": torch.ones(1, 3)}, 1, 1, 0)
    image = tokens((15.0,), (25.0,))
    assert answer(fusion, tokens((10.0,)), image) == near(50)
    assert answer(fusion, tokens((10.0,)), Tokens(image.states, torch.zeros_like(image.mask))) == near(20)


def test_dr_net():
    parts = {"shared.weight": ONE, "private.0.weight": ONE, "private.1.weight": ONE}
    fusion = build("dr_net", {**parts, "out.0.weight": torch.cat([ONE, ONE, ONE, ONE, NONE], 1)})
    assert answer(fusion, tokens((1.0, 0.0)), tokens((0.0, 2.0))) == near(2 * math.tanh(1), 2 * math.tanh(2))
    # the concept asks the words: scores log 3 and 0, so 3/4 of the first word
    relation = build("dr_net", {"ask.weight": ONE, "out.0.weight": torch.cat([NONE, NONE, NONE, NONE, ONE], 1)})
    concept = tokens((2**0.5 * math.log(3), 0.0))
    assert answer(relation, tokens((1.0, 0.0), (0.0, 8.0)), concept) == near(0.75, 2)


def test_hfm():
    """The LSTM is silent, so the text is 0 and half of the image remains: h = tanh(u) / 2."""
    ends = {"maps.0.0.weight": ONE, "maps.1.0.weight": ONE, "out.0.weight": ONE}
    query, image = tokens((1.0, 1.0)), tokens((1.0, 0.0), (0.0, 0.0))
    assert answer(build("hfm", ends), query, image) == near(math.tanh(0.5) / 2, 0)
    # guided by the image itself the first region weighs 3/4, by the text 1/2: 5/8
    guided = {
        "scores.1.1.token.weight": ONE,
        "scores.1.1.score.weight": torch.tensor([[math.log(3) / math.tanh(1), 0.0]]),
    }
    assert answer(build("hfm", {**ends, **guided}), query, image) == near(math.tanh(5 / 8) / 2, 0)


def test_pool_and_concat():
    query, image = tokens((1.0, 0.0), (3.0, 0.0)), tokens((5.0, 3.0))
    assert answer(build("pool", {}), query, image) == near(3, 1)
    assert answer(build("concat", {"mix.0.weight": torch.cat([ONE, -ONE], 1)}), query, image) == near(0, 0)
    assert answer(build("concat", {"mix.0.weight": torch.cat([ONE, ONE], 1)}), query, image) == near(7, 3)


def test_pooling():
    values = torch.tensor([[[1.0, 5.0], [3.0, -1.0], [99.0, 99.0]], [[2.0, 2.0], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(values, mask, "mean").tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert pool(values, mask, "max").tolist() == [[3.0, 5.0], [0.0, 0.0]]
    assert pool(values, mask, "cls").tolist() == [[1.0, 5.0], [0.0, 0.0]]


def test_graph_convolution():
    """A_ij / (sum_j A_ij + 1); by attention scores log 3 and 0 are 3/4 and 1/4, and what is below 0 counts a fifth."""
    plain = quiet(GraphConvolution(2), {"map.weight": ONE, "bias": torch.tensor([0.0, -1.0])})
    edges = torch.tensor([[[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    found = plain(torch.tensor([[[4.0, 0.0], [0.0, 8.0], [2.0, 6.0]]]), edges)
    assert found[0].flatten().tolist() == near(1, 3, 2, 1, 1, 2)
    attentive = quiet(
        GraphConvolution(2, attention=True), {"map.weight": ONE, "ends.weight": torch.tensor([[0.0, 0], [1, 0]])}
    )
    found = attentive(torch.tensor([[[math.log(3), 0.0], [0.0, 4.0], [7.0, 7.0]]]), edges)
    assert found[0].flatten().tolist() == near(0.75 * math.log(3), 1, 0.75 * math.log(3), 1, 7, 7)
    found = attentive(torch.tensor([[[-5 * math.log(3), 4.0], [0.0, 4.0], [7.0, 7.0]]]), edges)
    assert found[0, 0].tolist() == near(0, 4)
    found = attentive(torch.tensor([[[-5 * math.log(3), 8.0], [0.0, 0.0], [7.0, 7.0]]]), edges)
    assert found[0, 0].tolist() == near(0, 2)


def test_retrieve():
    """Agreement with the mean of what went in: scores log 3 and 0 (over sqrt(4)); padding is never read."""
    first = torch.tensor([[[4 * math.log(3), 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    last = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 8.0, 0.0, 0.0], [99.0, 99.0, 99.0, 99.0]]])
    mask = torch.tensor([[True, True, False]])
    assert retrieve(first, last, mask)[0].tolist() == near(0.75, 2, 0, 0)


def test_cross_edges():
    """1 + max(0, cos) + bias between words and regions, 1 to itself; none between regions, none to padding."""
    query = tokens((2.0, 0.0), (0.0, 1.0))
    image = Tokens(
        torch.tensor([[[3.0, 0.0], [-1.0, 0.0], [9.0, 9.0]]]),
        torch.tensor([[True, True, False]]),
        bias=torch.tensor([[[0.0, 0.25, 7.0], [0.5, 0.0, 7.0]]]),
    )
    assert cross_edges(query, [image])[0].tolist() == [
        [1, 0, 2, 1.25, 0],
        [0, 1, 1.5, 1, 0],
        [2, 1.5, 1, 0, 0],
        [1.25, 1, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_edges_of_grids_and_windows():
    whole = torch.ones(1, 10, dtype=torch.bool)
    grid = grid_edges(whole)[0]  # class token and 3 x 3 patches
    assert grid[0].tolist() == [1] + [0] * 9
    assert grid[1].nonzero().flatten().tolist() == [1, 2, 4, 5]  # a corner and its neighbours
    assert grid[5].sum() == 9  # the middle
    assert torch.equal(grid, grid.T)
    assert torch.equal(grid_edges(whole[:, :8])[0], window_edges(whole[:, :8])[0])  # 8 = 4 + 4 is no grid
    part = torch.tensor([[True, True, True, False]])
    assert window_edges(part, 1)[0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
