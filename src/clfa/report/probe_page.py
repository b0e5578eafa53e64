"""What `clfa probe` found, as sections of the run's report."""

from typing import Any

from clfa.report.page import BLUE, GREY, ORANGE, figure_source, percent, plain_axes


def probe_sections(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Sections of the content of `probe.json`."""
    gain, emap = result["emap"]["gain"]["accuracy"], result["emap"]
    rows = [["the model", f"{100 * result['accuracy']:.1f}", ""]]
    among = "" if emap["exact"] else f" on {emap['posts']:,} of the posts"
    if among:
        rows.append([f"the model{among}", f"{100 * emap['model']['accuracy']:.1f}", ""])
    rows.append(
        [f"best additive model (EMAP){among}", f"{100 * emap['accuracy']:.1f}", percent(gain["value"], gain["ci95"])]
    )
    for side, found in result["modalities"].items():
        for way in ("shuffled", "blanked", "masked"):
            loss = found[way]["loss"]["accuracy"]
            rows.append([f"{side} {way}", f"{100 * found[way]['accuracy']:.1f}", percent(loss["value"], loss["ci95"])])
    scores = ", ".join(f"{side} {found['perceptual_score']:.2f}" for side, found in result["modalities"].items())
    figures = [{"source": figure_source(_missing(result)), "caption": "Posts without a modality: it is masked."}]
    sections = [
        {
            "title": "Does it use both modalities?",
            "text": [
                result["verdict"][0].upper() + result["verdict"][1:] + ".",
                f"{result['posts']:,} posts of {result['split']}; brackets: paired 95 % intervals over posts. Perceptual "
                f"scores (share of the accuracy lost by shuffling): {scores}.",
            ],
            "table": {"head": ["", "accuracy", "points lost to it"], "rows": rows, "strong": ["the model"]},
            "figures": figures,
        }
    ]
    if result["corruptions"]:
        found = result["corruptions"]
        sections.append(
            {
                "title": "Bad pictures, bad texts",
                "text": [
                    f"{found['posts']:,} posts, accuracy {100 * found['accuracy']:.1f} % as they are. Bars: share of it "
                    "lost, mean over five severities, with 95 % intervals."
                ],
                "figures": [
                    {"source": figure_source(_drops(found[side])), "caption": f"Corruptions of the {side}."}
                    for side in ("image", "text")
                ],
            }
        )
    return sections


def _missing(result: dict[str, Any]) -> Any:
    figure, axes = plain_axes(5.6, 3.2)
    for side, colour in (("text", ORANGE), ("image", BLUE)):
        points = result["missing"][side]
        shares = [100 * point["share"] for point in points]
        axes.plot(shares, [100 * point["accuracy"] for point in points], marker="o", color=colour, label=f"no {side}")
    axes.set(xlabel="posts without it, %", ylabel="accuracy, %")
    axes.legend(frameon=False)
    return figure


def _drops(found: dict[str, Any]) -> Any:
    names = sorted(found, key=lambda name: found[name]["relative_drop"]["value"])
    figure, axes = plain_axes(5.6, 0.8 + 0.28 * len(names))
    for place, name in enumerate(names):
        drop = found[name]["relative_drop"]
        low, high = (100 * bound for bound in drop["ci95"])
        axes.barh(place, 100 * drop["value"], color=BLUE, alpha=0.75, height=0.65)
        axes.plot([low, high], [place, place], color="#22252a", linewidth=1)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#e8e8e8")
    axes.set_xlabel("share of the accuracy lost, %")
    return figure
