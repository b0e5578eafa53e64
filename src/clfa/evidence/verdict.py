"""Is a published figure reproduced? One rule for every row of a table."""

COMPARED = ("accuracy", "macro_f1", "binary_f1")
ENOUGH_RUNS = 3
WIDE = 6.0  # points; a wider interval holds too much to say "reproduced"


def verdict(
    ours: dict[str, tuple[float, float]], published: dict[str, float], runs: int, stand_ins: list[str]
) -> tuple[str, str]:
    """The verdict of a row, and why.

    Accuracy, which every row of the tables has, decides about "lower" and "higher", so that one test is made for a row. The
    interval holds the choice of posts although the published figure is of the same posts: "reproduced" is generous, "lower"
    and "higher" are careful.

    Args:
        ours: metric -> interval, in percent.
        published: metric -> figure, in percent.
        runs: number of our runs.
        stand_ins: what differs from the published system.

    Returns:
        "lower", "higher": our whole interval lies below or above the published accuracy. "reproduced": published accuracy,
        macro F1 and binary F1, where there are any, lie in our intervals, none of them wider than 6 points. "cannot tell"
        otherwise, with fewer than three runs, with stand-ins, or without a published figure.
    """
    shared = [name for name in COMPARED if name in published and name in ours]
    if "accuracy" not in shared:
        return "cannot tell", "no published figure"
    if stand_ins:
        return "cannot tell", "not the published system: " + "; ".join(stand_ins)
    if runs < ENOUGH_RUNS:
        return "cannot tell", f"{runs} of at least {ENOUGH_RUNS} runs"
    low, high = ours["accuracy"]
    if not low <= published["accuracy"] <= high:
        return ("lower" if high < published["accuracy"] else "higher"), "in accuracy"
    outside = [name for name in shared if not ours[name][0] <= published[name] <= ours[name][1]]
    if outside:
        return "cannot tell", f"accuracy agrees, {_spoken(outside)} does not"
    wide = [name for name in shared if ours[name][1] - ours[name][0] > WIDE]
    if wide:
        return "cannot tell", f"inside, but the interval of {_spoken(wide)} is over 6 points wide"
    return "reproduced", f"published {_spoken(shared)} inside the 95 % interval of one run"


def _spoken(names: list[str]) -> str:
    return ", ".join(name.replace("_", " ").replace("f1", "F1") for name in names)
