"""The page of the service in a real browser: by mouse, keyboard, drag and paste; errors; a table; nothing from elsewhere."""

import base64
import csv
import io
import shutil

import pytest
from conftest import picture
from PIL import Image
from servers import Slow, write_cues

from clfa.model.heatmap import alignment_heatmap
from clfa.serving.predictor import Predictor

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
GIVE = """([data, how]) => {
    const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
    const target = how === "drop" ? document.getElementById("drop") : document;
    const event = how === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
    target.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """`opened(client, **of the context)`: the page, which fails the test for any error or any request to elsewhere."""
    contexts, wrong = [], []

    def go(client, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith(own) else None)
        own = (str(client.base_url).rstrip("/"), "blob:", "data:")
        page.goto(own[0])
        page.locator("textarea").first.wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


def test_a_post_by_mouse_keyboard_drag_and_paste(run, served, opened, tmp_path):
    client, page = (client := served()), opened(client)
    (tmp_path / "a.png").write_bytes(picture(1))
    expected = Predictor(run)(
        [{"text": "word1 word2", "image": picture(1)}, {"text": "word1 word2"}, {"image": picture(1)}]
    )
    page.fill("textarea[name=text]", "word1 word2")
    page.set_input_files("#image", tmp_path / "a.png")
    page.get_by_role("button", name="Predict").click()
    page.locator(".label").wait_for()
    assert page.locator(".label").text_content() == expected[0].predicted
    share = max(expected[0].probabilities.values())
    assert page.locator("tr.best .number").text_content() == f"{100 * share:.1f} %"
    halves = page.locator("h3 + table tr td:nth-child(2)").all_text_contents()
    assert halves == [expected[1].predicted, expected[2].predicted]
    # the image is taken out, dropped and pasted again
    for how in ("drop", "paste"):
        page.get_by_role("button", name="Remove the image").click()
        assert not page.locator("#preview").is_visible()
        page.evaluate(GIVE, [base64.b64encode(picture(1)).decode(), how])
        page.locator("#preview").wait_for()
        page.get_by_role("button", name="Predict").click()
        page.get_by_text("What each half would say").wait_for()
    # nothing but the keyboard
    page = opened(client)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    page.keyboard.type("word3")
    page.keyboard.press("Control+Enter")
    page.locator(".label").wait_for()
    assert page.evaluate("document.activeElement.id") == "result"  # read out next
    assert page.locator(".label").text_content() == Predictor(run).one({"text": "word3"}).predicted


def test_what_a_prediction_rests_on_by_mouse_and_keyboard(run, served, opened, tmp_path):
    page, predictor = opened(served()), Predictor(run)
    (tmp_path / "a.png").write_bytes(picture(1))
    page.fill("textarea[name=text]", "word1 word2 word3")
    page.set_input_files("#image", tmp_path / "a.png")
    page.locator("#ask").click()
    page.locator("#why").click()
    page.locator("#rests").wait_for()
    assert page.evaluate("document.activeElement.id") == "rests"
    whole = predictor.one({"text": "word1 word2 word3", "image": picture(1)})
    without = predictor.one({"text": "word1 word3", "image": picture(1)}).probabilities[whole.predicted]
    page.locator(".word", has_text="word2").hover()
    assert page.locator("#said").text_content().startswith(f"Without “word2”: {100 * without:.1f} % (")
    # Tab goes through the words, then through the parts of the image, which are sixteen
    assert page.locator(".part").count() == 16
    said = []
    for _ in range(19):
        page.keyboard.press("Tab")
        said.append(page.locator("#said").text_content())
    assert said[0].startswith("Without “word1”")
    assert said[3].startswith("Without the part top, left:")
    assert said[18].startswith("Without the part bottom, right:")
    # one part grey, as the page does it
    image = Image.open(tmp_path / "a.png").convert("RGB")
    wide, high = image.width // 4, image.height // 4
    image.paste((128, 128, 128), (0, 0, wide, high))
    grey = predictor.one({"text": "word1 word2 word3", "image": image}).probabilities[whole.predicted]
    shown = float(said[3].partition(": ")[2].partition(" %")[0])
    assert shown == pytest.approx(100 * grey, abs=1.0)  # there it is a JPEG
    page.fill("textarea[name=text]", "word1")
    page.get_by_role("button", name="Remove the image").click()
    page.locator("#ask").click()
    page.locator("#why").click()
    page.locator("#rests").wait_for()
    assert page.locator(".part").count() == 0


STRENGTH = """() => {
    const layer = document.querySelector(".heat");
    const data = layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data;
    return [...data].filter((_, place) => place % 4 === 3);
}"""


def test_words_meet_the_image_by_mouse_and_keyboard(run, served, opened, tmp_path):
    page = opened(served())
    (tmp_path / "a.png").write_bytes(picture(1))
    page.fill("textarea[name=text]", "word1 word2 word3")
    page.set_input_files("#image", tmp_path / "a.png")
    page.locator("#ask").click()
    page.locator("#match").click()
    page.locator("#matched").wait_for()
    assert page.evaluate("document.activeElement.id") == "matched"
    post = {"text": "word1 word2 word3", "image": picture(1)}
    cosines = alignment_heatmap(Predictor(run).pipeline, post).similarity.reshape(3, 16)
    shares = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    mean = pytest.approx(215 * ((shares.mean(0)) ** 1.5), abs=2)
    assert page.evaluate(STRENGTH) == mean
    page.locator("#matched .word", has_text="word2").hover()
    assert page.evaluate(STRENGTH) == pytest.approx(215 * shares[1] ** 1.5, abs=2)
    assert page.locator("#matched-said").text_content().startswith("“word2” is closest to the ")
    page.mouse.move(0, 0)
    assert page.evaluate(STRENGTH) == mean
    for number in range(3):
        page.keyboard.press("Tab")
        assert page.evaluate(STRENGTH) == pytest.approx(215 * shares[number] ** 1.5, abs=2)
    page.keyboard.press("Escape")
    assert page.evaluate(STRENGTH) == mean
    assert page.locator("#cues").text_content() == "", "the run has none"
    page.get_by_role("button", name="Remove the image").click()
    page.locator("#ask").click()
    page.get_by_text("Words and image cannot be matched: the post has no image.").wait_for()
    assert page.locator("#match").count() == 0


def test_what_the_words_hint_at_in_the_training_posts(run, served, opened):
    write_cues(run)
    client = served(Slow())
    client.service.predictor.no_heatmap = "as of an export"
    page = opened(client)
    page.fill("textarea[name=text]", "Word3, word1 word2!")
    page.locator("#ask").click()
    page.locator(".cues").wait_for()
    assert page.locator(".cues th").all_text_contents() == ["“word1 word2”", "“word3”"]
    said = [cell.replace("\u00a0", " ") for cell in page.locator(".cues td:last-child").all_text_contents()]
    assert said == ["41 of 44: yes (of all posts 50 %)", "28 of 32: no (of all posts 50 %)"]
    assert page.locator(".cues tr.best th").all_text_contents() == ["“word1 word2”"], "what was predicted"
    assert "not about how the model decides" in page.locator("#cues").text_content()
    assert page.locator("#match, #unmatched").count() == 0, "the run has no heatmap"
    page.fill("textarea[name=text]", "word2 word1")
    page.locator("#ask").click()
    page.get_by_text("None of its words hints at a class by itself.").wait_for()


def test_an_example_is_drawn_and_predicted(served, opened):
    page = opened(served())
    page.get_by_role("button", name="with a storm").click()
    page.locator(".label").wait_for()
    assert page.locator("textarea").first.input_value() == "what a lovely day"
    assert page.locator("#shown").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]


def test_what_goes_wrong_is_said(served, opened, tmp_path):
    slow = Slow(may=False)
    client = served(slow)
    page = opened(client)
    page.get_by_role("button", name="Predict").click()
    assert page.locator("#error").text_content() == "Write a text, or choose an image."
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    page.set_input_files("#image", tmp_path / "a.pdf")
    assert "is no PNG" in page.locator("#error").text_content()
    page.fill("textarea", "<img src=x onerror=alert(1)>")
    page.locator("#ask").click()
    page.get_by_role("button", name="Predicting …").wait_for()  # and cannot be pressed again
    assert page.locator("#ask").is_disabled()
    slow.may.set()
    page.locator(".label").wait_for()
    assert not page.locator("#ask").is_disabled()
    page.route("**/predict", lambda route: route.fulfill(status=429, json={"message": "too many posts wait"}))
    page.locator("#ask").click()
    page.get_by_text("too many posts wait — Many ask at once").wait_for()
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.abort())
    page.locator("#ask").click()
    page.get_by_text("The service does not answer").wait_for()


def test_a_key_is_asked_for(served, opened):
    page = opened(served(Slow(), keys=["the-key"]))
    page.get_by_text("Enter a key at the top of the page").wait_for()
    page.fill("#key", "the-key")
    page.keyboard.press("Tab")
    page.fill("textarea", "word1")
    page.locator("#ask").click()
    page.locator(".label").wait_for()


def test_a_table_is_answered_filtered_and_downloaded(run, served, opened, tmp_path):
    page = opened(served())
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    cells = [
        ('a, "b"', "1.png"),
        ("two\nlines", "folder/2.png"),
        ("c", "missing.png"),
        *((f"word{n}", "") for n in range(40)),
    ]
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "image", "note"), *((*cell, "n") for cell in cells)])
    page.set_input_files("#csv", [tmp_path / "posts.csv", tmp_path / "1.png", tmp_path / "2.png"])
    page.get_by_text("43 of 43 posts", exact=True).wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    answers = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    images = {"1.png": picture(1), "folder/2.png": picture(2)}
    expected = Predictor(run)([{"text": text, "image": images.get(image)} for text, image in cells])
    assert [(row["text"], row["note"]) for row in answers] == [(text, "n") for text, _ in cells]
    assert [row["predicted"] for row in answers] == [answer.predicted for answer in expected]
    for row, answer in zip(answers, expected):
        assert float(row["probability_yes"]) == pytest.approx(answer.probabilities["yes"], abs=1e-5)
    assert [row["problem"] for row in answers if row["problem"]] == ["no file missing.png was chosen"]
    page.select_option("#filter", "problems")
    assert page.locator("#body tr:visible").count() == 1
    page.select_option("#filter", "yes")
    assert page.locator("#body tr:visible").count() == sum(answer.predicted == "yes" for answer in expected)
    (tmp_path / "other.csv").write_text("title\nx\n")
    page.set_input_files("#csv", tmp_path / "other.csv")
    page.get_by_text("other.csv has no column that the model reads").wait_for()


def test_nothing_may_come_from_elsewhere(served):
    client = served(Slow())
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for name in ("static/page.css", "static/page.js", "static/element.js", "static/words.js"):
        assert "http" not in client.get(f"/{name}").text.replace("http-equiv", "")
    assert client.get("/static/../service.py").status_code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_everybody_can_use_it(run, served, opened, tmp_path, scheme, width):
    """No violation that axe finds, with a result and a table, in both themes; nothing is cut off on a phone."""
    from axe_playwright_python.sync_playwright import Axe

    write_cues(run)
    # axe itself has to be put into the page
    page = opened(served(), color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    page.get_by_role("button", name="with a garden").click()
    page.locator(".label").wait_for()
    page.fill("textarea[name=text]", "word1 word2")
    page.locator("#ask").click()
    page.locator(".cues").wait_for()
    page.locator("#why").click()
    page.locator("#rests").wait_for()
    page.locator("#match").click()
    page.locator("#matched").wait_for()
    page.keyboard.press("Tab")
    (tmp_path / "posts.csv").write_text("text\nword1\nword2\n")
    page.set_input_files("#csv", tmp_path / "posts.csv")
    page.get_by_text("2 of 2 posts", exact=True).wait_for()
    found = Axe().run(
        page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    )
    assert len(found.response["passes"]) > 20
    assert found.response["violations"] == [], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
