"""Tables of docs/speed.md from what `clfa bench` and benchmarks/million.py wrote."""

from typing import Any

import numpy as np

TITLES = {
    "train": "Training the paper's full-size model",
    "infer": "Its answers",
    "teacher": "Embeddings of a teacher",
    "image": "Images, from bytes to tensors",
    "loss": "Contrastive losses",
    "curves": "How a training step grows",
}


def speed_values(found: dict[str, Any]) -> dict[str, Any]:
    """What the template reads."""
    benches = {name: found[f"bench_{name}"] for name in TITLES}
    further = benches["train"]["further"]
    slow = found["bench_train_slow_bf16"]
    return {
        "benches": {name: _bench(name, one) for name, one in benches.items()},
        "step_parts": further["ms a post of a step in bf16"],
        "flops": further["GFLOPs a post"],
        "bench_rates": further["GFLOPs a second of one product"],
        "shares": further["share of it"],
        "slow": {"rates": slow["further"]["GFLOPs a second of one product"], "shares": slow["further"]["share of it"]},
        "slow_ratios": slow["ratios"],
        "ratios": {name: one["ratios"] for name, one in benches.items()},
        "bench_machine": f"{benches['train']['environment']['device']}, {benches['train']['environment']['date']}",
        "goal_rows": goal_rows(found),
        "million_rows": million_rows(found["million"]["steps"]),
        "process_rows": process_rows(found["processes"]["batches"]),
        "answer_rows": answer_rows(found["quality"]) if found["quality"] else [],
        "cpu_rows": cpu_rows(found),
        "cost_rows": cost_rows(found["cost"]),
    }


def _bench(name: str, bench: dict[str, Any]) -> dict[str, Any]:
    ratios = [["ratio", "measured", "goal"]]
    for ratio, value in bench["ratios"].items():
        goal = bench["goals"].get(ratio)
        ratios.append(
            [ratio, f"{value:.2f}", "" if goal is None else f"{goal:g}" + (", missed" if value < goal else "")]
        )
    ways = [["way", f"ms a {'step' if name == 'curves' else 'post'}, median of the rounds", "least", "most"]]
    for way in bench["rounds"][0]:
        times = sorted(one[way] for one in bench["rounds"])
        ways.append([way, *(_number(time) for time in (times[len(times) // 2], times[0], times[-1]))])
    return {
        "title": TITLES[name],
        "rounds": len(bench["rounds"]),
        "about": _about(bench),
        "verdict": f": {bench['verdict']} (spread {100 * bench['noise']:.0f} %)" if bench["ratios"] else "",
        "ratio_rows": ratios,
        "way_rows": ways,
        "further": [f"{what}: {_said(value)}." for what, value in bench["further"].items()],
    }


ON_TWO = ("train", "infer", "teacher")
"""Suites whose ratios depend on how fast a CPU multiplies in bf16: measured on one where that is slow, too."""
COMMANDS = {
    "train": "clfa bench --suite train",
    "infer": "clfa bench --suite infer",
    "teacher": "clfa bench --suite teacher",
    "million": "benchmarks/million.py",
    "processes": "benchmarks/processes.py",
}
GROWTH = 0.10
"""P6: how much more memory a million posts may take than ten thousand."""


def cpu_rows(found: dict[str, Any]) -> list[list[str]]:
    """Ratios with goals, and rates of products, on two CPUs."""
    both = [(found[f"bench_{suite}"], found[f"bench_{suite}_slow_bf16"]) for suite in ON_TWO]
    rows = [["", "goal", *(f"{one['environment']['device']}, {one['environment']['date']}" for one in both[0])]]
    for kind in both[0][1]["further"]["GFLOPs a second of one product"]:
        rates = [one["further"]["GFLOPs a second of one product"][kind] for one in both[0]]
        rows.append([f"GFLOPs a second of one product, {kind}", "", *(f"{rate:,}" for rate in rates)])
    for suite, benches in zip(ON_TWO, both):
        for ratio, goal in benches[0]["goals"].items():
            rows.append([f"{suite}: {ratio}", f"{goal:g}", *(f"{one['ratios'][ratio]:.2f}" for one in benches)])
    return rows


def goal_rows(found: dict[str, Any]) -> list[list[str]]:
    """A goal a row: what was wanted, what was measured, whether that is enough, whether the machine was quiet, how."""
    rows = [["goal", "wanted", "measured", "", "noise", "command"]]

    def add(goal: str, wanted: str, measured: str, met: bool | None, noise: str, how: str) -> None:
        said = "" if met is None else "met" if met else "missed"
        rows.append([goal, wanted, measured, said, noise, f"`{COMMANDS[how]}`"])

    for suite, prefixes in {
        "train": {"portable": "P1", "fp32": "P1", "bf16": "P1", "frozen": "P5"},
        "infer": dict.fromkeys(found["bench_infer"]["goals"], "P3"),
        "teacher": {"teacher": "P4"},
    }.items():
        bench = found[f"bench_{suite}"]
        for ratio, prefix in prefixes.items():
            value, goal = bench["ratios"][ratio], bench["goals"][ratio]
            add(f"{prefix} {ratio}", f"≥ {goal:g}", f"{value:.2f}", value >= goal, bench["verdict"], suite)
    train = found["bench_train"]
    shares = train["further"]["share of it"]
    for kind, wanted in {"fp32": 0.60, "fp32_by_bf16": 0.60, "bf16": 0.50}.items():
        if f"ours, {kind}" not in shares:
            continue
        share = shares[f"ours, {kind}"]
        add(
            f"P2 share of a large product, {kind}",
            f"≥ {wanted:.0%}",
            f"{share:.0%}",
            share >= wanted,
            train["verdict"],
            "train",
        )
    again = found["bench_teacher"]["further"]["embedded again in a second run"]
    add("P4 embedded again in a second run", "0", str(again), again == 0, "counted", "teacher")
    steps = found["million"]["steps"]
    small, large = (steps[size] for size in ("10000", "1000000"))
    for step in small:
        if step in large:
            growth = large[step]["peak_mb"] / small[step]["peak_mb"] - 1
            peaks = large[step]["peaks_mb"]
            several = f"runs: {len(peaks)}" + (f", within {max(peaks) - min(peaks)} MB" if len(peaks) > 1 else "")
            add(
                f"P6 memory of a million posts: {step}",
                f"≤ {GROWTH:+.0%}",
                f"{growth:+.1%}",
                growth <= GROWTH,
                several,
                "million",
            )
    for batch, one in found["processes"]["batches"].items():
        off, efficiency, rounds = one["losses_differ_by"], one["efficiency"], found["processes"]["rounds"]
        add(
            f"P7 losses of two processes, batch {batch}",
            "the same",
            f"within {off:.0e}",
            off < 1e-4,
            "counted",
            "processes",
        )
        add(
            f"P7 efficiency of two, batch {batch}",
            "printed",
            f"{efficiency:.2f}",
            None,
            f"rounds: {rounds}",
            "processes",
        )
    return [rows[0], *sorted(rows[1:], key=lambda row: row[0].split()[0])]


def process_rows(batches: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A batch a row: posts a second of one process and of two, and how much of two is gained."""
    rows = [["posts of a batch", "one process, posts a second", "two processes", "efficiency", "losses differ by"]]
    for batch, one in batches.items():
        rates = [f"{one['posts_a_second'][count]:.2f}" for count in ("1", "2")]
        rows.append([batch, *rates, f"{one['efficiency']:.2f}", f"{one['losses_differ_by']:.1e}"])
    return rows


def answer_rows(quality: dict[str, Any]) -> list[list[str]]:
    """A way to answer a row: scores, the difference from fp32, how far logits and labels are off."""
    rows = [
        ["way", "accuracy", "macro F1", "minus fp32, macro F1", "largest difference of a logit", "labels that differ"]
    ]
    gaps = {one["system"]: one["metrics"]["macro_f1"]["difference"] for one in quality["differences"]}
    for one in quality["systems"]:
        way = one["system"]
        gap = gaps.get(way)
        scores = [f"{100 * one['metrics'][name]['value']:.1f}" for name in ("accuracy", "macro_f1")]
        gap_text = (
            "" if gap is None else f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
        )
        off = [_number(quality["largest_difference_of_a_logit"][way]), f"{quality['labels_that_differ'][way]:.1%}"]
        rows.append([way, *scores, gap_text, *(off if gap is not None else ["", ""])])
    return rows


def _about(bench: dict[str, Any]) -> str:
    own = bench["environment"]
    return f"{own['date']}, {own['device']}, {own['cores']} cores, torch {own['torch']}"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_said(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Three digits, and never a power of ten where there are more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def million_rows(steps: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """A step a row: memory and time by the number of posts, and how much more memory the most need."""
    sizes = sorted(steps, key=int)
    rows = [
        [
            "step",
            *(f"{int(size):,} posts, MB" for size in sizes),
            "growth",
            "line through all, MB",
            *(f"{int(size):,} posts, s" for size in sizes),
        ]
    ]
    for step in ("import", "cache", "train, encoders frozen", "train, text encoder too", "predict"):
        if all(step in steps[size] for size in sizes):
            peaks = [steps[size][step]["peak_mb"] for size in sizes]
            seconds = [f"{steps[size][step]['seconds']:,.0f}" for size in sizes]
            slope, start = np.polyfit([int(size) for size in sizes], peaks, 1)
            growth = f"{100 * (peaks[-1] / peaks[0] - 1):+.0f} %"
            line = f"{start:.0f} + {1e6 * slope:.0f} bytes a post"
            rows.append([step, *(f"{peak:,.0f}" for peak in peaks), growth, line, *seconds])
    return rows


def cost_rows(cost: dict[str, Any]) -> list[list[str]]:
    """A way a row: posts a second and core, and what a million of them would take and cost."""
    rows = [["way", "posts a second and core, median", "least", "most", "a million posts, core hours", "dollars"]]
    for way, one in cost["ways"].items():
        each = sorted(one["posts_a_second"])
        hours = one["core_hours_a_million"]
        cells = (each[len(each) // 2], each[0], each[-1])
        rows.append([way, *(f"{cell:.1f}" for cell in cells), f"{hours:.1f}", f"{hours * cost['price']:.2f}"])
    return rows
