"""Work that is counted, not timed: what an epoch may cost."""

import os
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from clfa.data import cache as caching
from clfa.data import cells
from clfa.model import encoders, modalities
from clfa.model.modalities import KINDS
from clfa.model.teacher import HubTeacher
from clfa.training.setup import fill_caches
from clfa.training.train import train

EPOCHS, POSTS, IMAGES = 3, 32, 31  # of train and validation
PADDED = 48


@pytest.fixture
def counted(monkeypatch):
    """Counts of images decoded, texts tokenized, contents hashed, posts encoded (by kind) and embedded by a teacher."""
    counts = Counter()

    def count(place, name, key, size):
        original = getattr(place, name)

        def wrapped(*args, **kwargs):
            counts[key(*args) if callable(key) else key] += size(*args)
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, wrapped)

    count(cells, "open_image", "decoded", lambda *args: 1)
    count(modalities.TextKind, "prepare", "tokenized", lambda self, preparer, values, *_: len(values))
    count(modalities.TextKind, "compact", "tokenized", lambda self, preparer, values, *_: len(values))
    count(caching, "content_key", "hashed", lambda *args: 1)
    count(encoders.Encoder, "forward", lambda self, inputs: self.kind.name, lambda self, inputs: _posts(inputs))
    count(HubTeacher, "embed", "embedded", lambda self, kind, values: len(values))
    return counts


def _posts(inputs):
    return len(next(iter(inputs.values())))


@pytest.fixture
def posts(dataset, tmp_path):
    """A dataset directory without caches."""
    import shutil

    shutil.copytree(dataset, tmp_path / "posts", ignore=shutil.ignore_patterns("keys", "states", "teachers", "inputs"))
    return tmp_path / "posts"


def test_each_post_is_prepared_once(counted, run_config, posts, tmp_path):
    train(run_config(data__path=str(posts), train__epochs=EPOCHS))
    samples = 3  # by which it is tried whether a preparer's work can be kept, twice each, and once for the size
    assert counted["decoded"] <= 2 * IMAGES  # once for the encoder, once for the teacher
    assert counted["tokenized"] <= POSTS + 2 * samples + 1
    assert counted["embedded"] == POSTS + IMAGES
    first = counted.copy()
    train(run_config(data__path=str(posts), train__epochs=EPOCHS, output=str(tmp_path / "again")))
    assert counted["decoded"] == first["decoded"]
    assert counted["tokenized"] - first["tokenized"] <= 2 * samples + 1
    assert counted["embedded"] == first["embedded"]
    assert counted["hashed"] == first["hashed"]
    # the encoders read each post in each epoch: one of training, one of validation
    assert counted["text"] - first["text"] == EPOCHS * POSTS


def test_cached_states_need_no_encoder(counted, run_config, posts, tmp_path):
    frozen = {f"model__modalities__{name}__frozen": True for name in ("text", "image")}
    config = {"data__path": str(posts), "loss__alignment_weight": 0, **frozen}
    train(run_config(train__epochs=1, **config))
    first = counted.copy()
    train(run_config(train__epochs=EPOCHS, output=str(tmp_path / "again"), **config))
    new = counted - first
    assert [new[name] for name in ("decoded", "tokenized", "text", "image", "hashed")] == [0, 0, 0, 0, 0]


def test_a_training_finds_what_was_cached_for_it_even_of_weights_that_are_drawn(counted, run_config, posts):
    own = {
        f"model__modalities__{name}__{key}": value
        for name in ("text", "image")
        for key, value in {"frozen": True, "pretrained": False}.items()
    }
    config = run_config(data__path=str(posts), loss__alignment_weight=0, train__epochs=1, **own)
    fill_caches(config)
    first = counted.copy()
    train(config)
    new = counted - first
    assert [new[name] for name in ("decoded", "text", "image")] == [0, 0, 0]


def test_an_epoch_reads_each_cached_state_once(run_config, posts, tmp_path, monkeypatch):
    frozen = {f"model__modalities__{name}__frozen": True for name in ("text", "image")}
    config = {"data__path": str(posts), "loss__alignment_weight": 0, "train__patience": 99, **frozen}
    train(run_config(train__epochs=1, **config))
    stored = sum(
        values.nbytes for path in (posts / "states").rglob("*.safetensors") for values in [load_file(path)["values"]]
    )
    read, pread = Counter(), os.pread

    def counting(file, size, offset):
        read["bytes"] += size
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    train(run_config(train__epochs=EPOCHS, output=str(tmp_path / "again"), **config))
    assert read["bytes"] == EPOCHS * stored  # no post of these shares a text or an image with another


def test_a_step_computes_what_its_lengths_ask_for(run_config, posts, monkeypatch):
    """FLOPs of an epoch against the loop that one writes first, which pads all texts to one length."""
    from torch.utils.flop_counter import FlopCounterMode

    from clfa.studies.bench.plain import PlainLoop
    from clfa.studies.bench.whole import _train
    from clfa.training.setup import set_up

    monkeypatch.setattr("clfa.studies.bench.plain.FIXED", PADDED)
    config = run_config(data__path=str(posts), loss__alignment_weight=0, model__modalities__image=None)
    setup = set_up(config)
    batches = [batch.tolist() for batch in setup.sampler.all_batches()]
    lengths = [setup.batches.collate_fn([setup.rows[n] for n in batch]).modalities["text"].length for batch in batches]
    loop = PlainLoop(setup, config, bf16=False)
    counts = {}
    for name, work in {
        "ours": lambda: _train(setup, config, batches),
        "plain": lambda: [loop.step(places) for places in batches],
    }.items():
        with FlopCounterMode(display=False) as counter:
            work()
        counts[name] = counter.get_total_flops()
    share = sum(size * len(batch) for size, batch in zip(lengths, batches)) / (PADDED * len(setup.rows))
    assert share < 0.5
    assert counts["ours"] < 1.1 * share * counts["plain"]


def test_prepared_inputs_change_nothing(run_config, posts, tmp_path, monkeypatch):
    whole = train(run_config(data__path=str(posts), train__epochs=EPOCHS))
    assert len(list((posts / "inputs").glob("*/*.safetensors"))) == 4  # two modalities, two splits
    monkeypatch.setattr("clfa.model.pipeline.Pipeline.cache_inputs", lambda *_, **__: None)
    anew = train(run_config(data__path=str(posts), train__epochs=EPOCHS, output=str(tmp_path / "anew")))
    one, other = (load_file(run / "model.safetensors") for run in (whole, anew))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(run_config, posts, tmp_path):
    from clfa.studies.bench.curves import _saved
    from clfa.training.setup import set_up
    from clfa.training.train import loss_terms

    made = {}
    for wanted in (False, True):
        changes = {"train__gradient_checkpointing": wanted, "model__dropout": 0, "loss__alignment_weight": 0}
        config = run_config(data__path=str(posts), **changes)
        torch.manual_seed(0)
        setup = set_up(config)
        setup.model.train()
        for module in setup.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = setup.batches.collate_fn([setup.rows[place] for place in range(6)])
        with _saved(setup.model) as sizes:
            loss = loss_terms(setup, config, batch, 0.5, [6])["loss"]
        loss.backward()
        gradients = {name: one.grad for name, one in setup.model.named_parameters() if one.grad is not None}
        made[wanted] = (loss.item(), gradients, sum(sizes.values()))
    (loss, gradients, kept), (same, own, less) = made[False], made[True]
    assert same == pytest.approx(loss, abs=1e-6)
    assert own.keys() == gradients.keys()
    assert all(torch.allclose(own[name], gradients[name], atol=1e-6) for name in own)
    assert less < 0.8 * kept


def test_what_cannot_be_kept_is_prepared_in_each_epoch(run_config, posts, tmp_path, monkeypatch, caplog):
    expected = train(run_config(data__path=str(posts), train__epochs=2, loss__alignment_weight=0))

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clfa.model.pipeline.fill_split", full)
    changes = {"train__epochs": 2, "loss__alignment_weight": 0, "output": str(tmp_path / "anew")}
    anew = train(run_config(data__path=str(posts), **changes))
    assert caplog.text.count("made anew in each epoch") == 2
    one, other = (load_file(run / "model.safetensors") for run in (expected, anew))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tokenizer_without_a_backend_is_used_as_it_is(encoders):
    tokenizer = KINDS["text"].load_preparer(encoders / "bert")
    assert KINDS["text"].can_compact(tokenizer, 16)
    before = KINDS["text"].signature(tokenizer)
    tokenizer.truncation_side = "left"
    assert KINDS["text"].signature(tokenizer) != before

    class Slow:
        is_fast = False

    assert not KINDS["text"].can_compact(Slow(), 16)
