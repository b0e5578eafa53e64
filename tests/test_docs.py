"""Pages with numbers are what the generator writes; links in the documents lead somewhere."""

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@cache
def generator():
    sys.path.insert(0, str(ROOT / "docs"))  # as if it ran as a script
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages():
    return generator().pages(generator().load())


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/results.md",
        "docs/findings.md",
        "docs/when-alignment-helps.md",
        "docs/errors.md",
        "docs/reliability.md",
        "docs/serving.md",
        "docs/speed.md",
    ],
)
def test_numbers_are_generated_not_typed(name):
    assert (ROOT / name).read_text() == pages()[name]


def test_each_target_of_reliability_has_tests_that_ran_and_passed():
    import reliability_page

    stored = generator().load()["faults"]
    assert not reliability_page.unshown(stored)
    assert {name: test for name, test in stored.items() if test["outcome"] != "passed"} == {}
    failed = {name: test | {"outcome": "failed"} for name, test in stored.items()}
    rows = [row for table in reliability_page.reliability_rows(failed).values() for row in table[1:]]
    assert all("failed" in row[3] and "passed" not in row[3] for row in rows)


def test_stored_results_hold_no_posts():
    """Words that are cues and counts are shown, ids and texts of posts are not."""

    def examples(value):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "examples":
                yield entry
            elif isinstance(entry, (dict, list)):
                yield from examples(entry)

    for name in ("audits", "probes", "white_space"):
        text = (ROOT / "docs" / "results" / f"{name}.json").read_text()
        assert not any(examples(json.loads(text)))
        assert not re.search(r"(?<![\d.])\d{18}(?!\d)", text)  # ids of MMSD


def test_a_claim_needs_an_interval_without_zero_and_a_small_p():
    from clfa.evidence.results import Gap
    from clfa.metrics import Score, is_claim

    def claim(value, low, high, p, runs=5):
        score = Score(value, low, high, n=runs)
        gap = Gap(score, "posts", [low, high], p, p, 0.03, is_claim(score, p))
        return generator().claim("x", {"accuracy": gap, "macro_f1": gap})

    said = "+2.0 points [-1.0, +5.0], p (Holm) 0.200: cannot tell"
    assert claim(0.02, -0.01, 0.05, 0.2) == f"x: CLFA − no alignment, accuracy {said}; macro F1 {said}."
    assert claim(0.03, 0.01, 0.05, 0.01).endswith(": alignment helps.")
    assert claim(0.021, 0.001, 0.041, 0.04).endswith(": alignment helps.")  # one rule, no further hurdle
    assert claim(0.021, 0.001, 0.041, 0.06).endswith(": cannot tell.")
    assert claim(-0.03, -0.05, -0.01, 0.01, runs=1).endswith(": in these runs alignment hurts.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_decisions_fit_on_a_page():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 40


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    """Each link leads somewhere, each name of the reference is there; what is loaded is in the folder."""
    mkdocs = Path(sys.executable).with_name("mkdocs")
    command = [str(mkdocs), "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]*)\"")
    found = {(path.name, address) for path in pages for address in loaded.findall(path.read_text())}
    assert not [one for one in found if "canonical" not in one[1]]
    styles = "".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert not re.search(r"url\(['\"]?https?:", styles)
    assert "Predictor" in (tmp_path / "reference" / "predict.html").read_text()
    index = json.loads((tmp_path / "search" / "search_index.json").read_text())
    assert any("alignment" in one["text"] for one in index["docs"])
