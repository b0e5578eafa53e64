"""Pages with numbers are what the generator writes; links in the documents lead somewhere."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def generator(name: str = "make_results"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_are_generated_not_typed():
    module = generator()
    found = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "results").glob("*.json"))}
    assert {"table", "demo"} <= found.keys()
    assert (ROOT / "docs" / "results.md").read_text() == module.page(found)
    readme = (ROOT / "README.md").read_text()
    assert module.with_tables(readme, found) == readme


def test_findings_are_generated_not_typed():
    assert (ROOT / "docs" / "findings.md").read_text() == generator("make_findings").page()


def test_findings_hold_no_posts():
    """Words that are cues and counts are shown, ids and texts of posts are not."""
    for name in ("audits", "probes", "white_space"):
        text = (ROOT / "docs" / "results" / f"{name}.json").read_text()
        assert "examples" not in text
        assert not re.search(r"(?<![\d.])\d{18}(?!\d)", text)  # ids of MMSD


def test_a_verdict_needs_an_interval_without_zero():
    verdict = generator().verdict
    assert verdict("x", {"mean": 0.02, "ci95": [-0.01, 0.05]}) == (
        False,
        "x: CLFA − no alignment, macro F1 +2.0 points [-1.0, +5.0]: cannot tell.",
    )
    assert verdict("x", {"mean": 0.03, "ci95": [0.01, 0.05]})[1].endswith("alignment helps.")
    assert verdict("x", {"mean": 0.021, "ci95": [0.001, 0.041]})[1].endswith(
        "under the minimum detectable effect."
    )  # below what can be found
    assert verdict("x", {"mean": -0.03, "ci95": [-0.05, -0.01]})[1].endswith("alignment hurts.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_decisions_fit_on_a_page():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 40
