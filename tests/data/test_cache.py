"""Caches: what is whole stays, and what a kill or a damage leaves is computed again."""

import pytest
import torch

from clfa.data.cache import Cache, fill


def ones(batch):
    return [torch.ones(1, 4) for _ in batch]


def test_what_was_computed_is_kept_when_a_fill_is_stopped(tmp_path):
    def compute(batch):
        if "text 70" in batch:
            raise KeyboardInterrupt
        return ones(batch)

    texts = [f"text {number}" for number in range(100)]
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "cache", "text", texts, compute, "computing", batch_size=10)
    kept = len(Cache(tmp_path / "cache"))
    assert 0 < kept < 100
    count = fill(tmp_path / "cache", "text", texts, ones, "computing")
    assert count == 100 - kept


def test_a_damaged_file_is_computed_again_and_a_half_one_of_a_kill_is_removed(tmp_path):
    texts = [f"text {number}" for number in range(100)]
    assert fill(tmp_path, "text", texts, ones, "computing") == 100
    (whole,) = tmp_path.glob("*.safetensors")
    before = whole.read_bytes()
    whole.write_bytes(before[:50])
    (tmp_path / f"{whole.name}.17-1c869e91.partial").write_bytes(before[:50])
    with pytest.raises(ValueError, match="9 tensors were computed of 10 contents"):
        fill(tmp_path, "text", texts, lambda batch: ones(batch)[1:], "computing", batch_size=10)
    assert fill(tmp_path, "text", texts, ones, "computing") == 100
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == [whole.name]
    assert whole.read_bytes() == before
