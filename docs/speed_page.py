"""Tables of docs/speed.md from what `clfa bench` and benchmarks/million.py wrote."""

from typing import Any

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
    rates = {kind: f"{rate:,}" for kind, rate in further["GFLOPs a second of one product"].items()}
    return {
        "benches": {name: _bench(name, one) for name, one in benches.items()},
        "rates": rates,
        "flops": further["GFLOPs a post"],
        "shares": {"fp32": further["share of it"][further["fp32 is"]], "bf16": further["share of it"]["ours, bf16"]},
        "bf16_is_slow": float(further["GFLOPs a second of one product"]["bf16"])
        < float(further["GFLOPs a second of one product"]["fp32"]),
        "ratios": {name: one["ratios"] for name, one in benches.items()},
        "bench_machine": f"{benches['train']['environment']['device']}, {benches['train']['environment']['date']}",
        "million_rows": million_rows(found["million"]["steps"]),
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
            *(f"{int(size):,} posts, s" for size in sizes),
        ]
    ]
    for step in steps[sizes[0]]:
        if all(step in steps[size] for size in sizes):
            peaks = [steps[size][step]["peak_mb"] for size in sizes]
            seconds = [f"{steps[size][step]['seconds']:,.0f}" for size in sizes]
            rows.append(
                [step, *(f"{peak:,.0f}" for peak in peaks), f"{100 * (peaks[-1] / peaks[0] - 1):+.0f} %", *seconds]
            )
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
