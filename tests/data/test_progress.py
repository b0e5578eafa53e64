"""Lines of progress: after two seconds, then each ten, none where nearly all is done."""

import logging

import pytest

from clfa.data import progress


@pytest.mark.parametrize(("items", "at"), [(30, []), (350, [20, 120, 220, 320]), (150, [20, 120]), (130, [20])])
def test_lines(items, at, monkeypatch, caplog):
    """Ten a second."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "clfa")
    for _ in progress.track(range(items), "posts", items):
        now[0] += 0.1000001
    assert [int(record.getMessage().split()[1]) for record in caplog.records] == at
    if at:
        assert caplog.messages[0] == f"posts: 20 of {items}, 10 a second, {(items - 20) / 10:.0f} s left"


def test_without_a_total_there_is_always_a_line(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "clfa")
    for _ in progress.track(range(25), "rows"):
        now[0] += 0.1000001
    assert caplog.messages == ["rows: 20, 10 a second"]
