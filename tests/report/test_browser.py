"""Pages in a real browser with the network cut: no outside request, nothing untrusted runs, readable small and dark."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from clfa import commands
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.training.train import train

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HOSTILE = [
    "<script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<svg onload=hit()>",
    "</td></table><script>hit()</script>",
    "</title><script>hit()</script>",
    "</style><script>hit()</script>",
    '"><script>hit()</script>',
    "'><img src=x onerror=hit()>",
    "javascript:hit()",
    "<a href=javascript:hit()>x</a>",
    "<iframe src=//evil.example></iframe>",
    "<iframe srcdoc='<script>parent.hit()</script>'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<base href=//evil.example/>",
    "<object data=//evil.example></object>",
    "<embed src=//evil.example>",
    "<form action=//evil.example><button>x</button></form>",
    "<input onfocus=hit() autofocus>",
    "<details open ontoggle=hit()>",
    "<video src=//evil.example/x.mp4 onerror=hit()>",
    "<body onload=hit()>",
    "<style>*{background:url(//evil.example/x.png)}</style>",
    "<div style=background:url(//evil.example/x.png)>",
    "{{7*7}}",
    "{%print(7*7)%}",
    "${7*7}",
    "&lt;script&gt;hit()&lt;/script&gt;",
    "<!--<script>hit()</script>-->",
    "<math><mtext></mtext><script>hit()</script></math>",
]

TOKENS = [text.replace(" ", "/") for text in HOSTILE]  # a slash separates attributes as well, and leaves one token


@pytest.fixture(scope="module")
def pages(tmp_path_factory, encoders):
    """An audit and a run report of posts whose words and ids are hostile strings."""
    from dataclasses import asdict

    from clfa.config import (
        DataConfig,
        FusionConfig,
        LossConfig,
        ModalityConfig,
        ModelConfig,
        RunConfig,
        TrainConfig,
        build_config,
    )

    folder = tmp_path_factory.mktemp("browser")
    words = TOKENS

    def rows():
        for split, count in (("train", 720), ("validation", 24), ("test", 60)):
            for number in range(count):
                seed = number + 10_000 * len(split)
                label = ["no", "yes"][number % 2]
                word = words[number // 2 % len(words)] if label == "yes" else f"word{seed}"
                id = f"{split}-{number}-{words[number % len(words)]}" if number < 60 else f"{split}-{number}"
                yield split, Record(id, f"{word} {'same' if number < 60 else seed}", picture(seed % 50), label)

    about = {"reader": "test", "name": HOSTILE[4], "filters": [HOSTILE[0]]}
    write_dataset(rows(), folder / "data", ["no", "yes"], about, text="raw")
    commands.audit(str(folder / "data"))
    modalities = {
        "text": ModalityConfig("text", str(encoders / "bert"), max_length=16),
        "image": ModalityConfig("image", str(encoders / "vit")),
    }
    config = RunConfig(
        data=DataConfig(str(folder / "data"), train_rows=24),
        model=ModelConfig(modalities, 16, 32, FusionConfig(layers=1, heads=2, feedforward=32)),
        output=str(folder / "run"),
        loss=LossConfig(alignment_weight=0),
        train=TrainConfig(epochs=1, batch_size=8),
    )
    run = train(build_config(RunConfig, asdict(config)))
    commands.evaluate(str(run), split="test")
    commands.probe(str(run), posts=8, corrupted=2)
    return {"audit": folder / "data" / "audit.html", "report": run / "report-test.html"}


class Loaded(HTMLParser):
    """Everything that a page would load or run."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "link", "object", "embed", "base", "form", "video", "svg", "input"):
            self.found.append(tag)
        for name, value in attributes:
            if name.startswith("on") or (name in ("src", "href") and not (value or "").startswith("data:image/")):
                self.found.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("page", ["audit", "report"])
def test_source_holds_nothing_that_loads_or_runs(pages, page):
    parser = Loaded()
    parser.feed(pages[page].read_text(encoding="utf-8"))
    assert parser.found == []


def test_hostile_words_reach_the_pages(pages):
    cues = {cue["cue"] for cue in json.loads((pages["audit"].parent / "audit.json").read_text())["cues"]}
    assert {text.lower() for text in TOKENS} <= cues
    assert "&lt;script&gt;hit()&lt;/script&gt;" in pages["audit"].read_text()
    assert "&lt;" in pages["report"].read_text()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("page", ["audit", "report"])
@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1100, "dark")])
def test_page_in_a_browser(pages, browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    requests: list[str] = []
    dialogs: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("dialog", lambda dialog: dialogs.append(dialog.message))
    tab.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1 }")
    tab.goto(Path(pages[page]).as_uri())
    tab.wait_for_timeout(200)
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1  # the page itself
    assert tab.evaluate("window.hits") == 0
    assert dialogs == []
    assert tab.evaluate("document.scripts.length") == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll inside themselves
    assert tab.evaluate("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 14
    colours = tab.evaluate(
        "[document.body, document.querySelector('p')].map((e, n) => getComputedStyle(e)[n ? 'color' : 'backgroundColor'])"
    )
    background, text = (np.array([int(part) for part in colour[4:-1].split(",")]) for colour in colours)
    assert _contrast(background, text) >= 4.5
    assert (background.mean() < 80) == (scheme == "dark")
    shown = tab.inner_text("body")
    if page == "audit":
        assert [text for text in TOKENS if text.lower() not in shown] == []
    assert "49" not in [word for word in shown.split() if "7*7" in word]
    context.close()


def _contrast(one: np.ndarray, two: np.ndarray) -> float:
    """WCAG contrast ratio of two sRGB colours."""

    def luminance(colour: np.ndarray) -> float:
        share = colour / 255
        linear = np.where(share <= 0.03928, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)
