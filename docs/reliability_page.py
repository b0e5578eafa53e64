"""The table of docs/reliability.md: each target, the tests that show it, and what they counted when they last ran.

    make faults
    python -m pytest -m "not gpu" -n 2 --junitxml=runs/tests.xml
    python docs/reliability_page.py runs/tests.xml runs/faults.xml     -> docs/results/faults.json

What stands in both files is taken from the later one.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

STORED = Path(__file__).parent / "results" / "faults.json"


@dataclass(frozen=True)
class Target:
    """A row of the table."""

    id: str
    what: str
    tests: tuple[str, ...]
    """Files, or `file::beginning of a name`, below `tests`."""


KILL, CHECKPOINT, TRAIN = "training/test_kill.py", "training/test_checkpoint.py", "training/test_train.py"
CHECK, READERS, STOPPED = "data/test_check.py", "data/test_readers.py", "serving/test_stopped.py"
TARGETS = {
    "Training": (
        Target(
            "R1",
            "Killed at any moment, the same command goes on: weights, moments, random generators, log and predictions are "
            "those of an unbroken run to the byte, with 0 and 2 data loaders, accumulation 1 and 3; a build that forgets "
            "one piece of state fails the same test",
            (f"{KILL}::test_killed", f"{KILL}::test_the_control", f"{TRAIN}::test_resume_equals"),
        ),
        Target(
            "R2",
            "Killed inside of each phase of writing a checkpoint, the newest complete one is loaded",
            (f"{CHECKPOINT}::test_killed_inside",),
        ),
        Target(
            "R3",
            "Bits flipped, files cut, tensors or files gone: found by their SHA-256, the checkpoint before is taken with a "
            "warning; none whole is an error; models and teachers are refused by the name of the file",
            (
                f"{CHECKPOINT}::test_random_corruptions",
                f"{CHECKPOINT}::test_nothing_whole",
                f"{CHECKPOINT}::test_what_is_left_out",
                "model/test_sealed.py",
            ),
        ),
        Target(
            "R4",
            "A full disk (a file system of 150 MB): what was saved stays, needed and free bytes are said, and it goes on",
            (f"{KILL}::test_a_full_disk", f"{CHECKPOINT}::test_a_full_disk"),
        ),
        Target(
            "R5",
            "The last two checkpoints and the best weights are kept; one is removed after the new one was read again",
            (f"{CHECKPOINT}::test_killed_inside", f"{CHECKPOINT}::test_the_manifest"),
        ),
        Target(
            "R6",
            "SIGTERM and SIGINT in training, waiting for data loaders, and validation: a checkpoint after the step, exit "
            "143 or 130, nothing computed twice differs",
            (f"{KILL}::test_a_signal", f"{KILL}::test_killed", "studies/test_sweep.py::test_a_signal"),
        ),
        Target(
            "R7",
            "A loss or gradient that is not finite: the step is not applied, counted, and three in a row name their posts",
            ("training/test_not_finite.py",),
        ),
        Target(
            "R8",
            "The same seed, the same bytes, also across data loaders and caches; `train.deterministic` refuses operations "
            "that are not repeatable",
            (f"{TRAIN}::test_same_seed", f"{TRAIN}::test_deterministic", f"{KILL}::test_killed"),
        ),
        Target(
            "R9",
            "Another configuration, data set, code version or label map is refused on resume by its keys; a finished run "
            "says so, exit 0; a second process in the same folder is refused with the first one's number and host",
            (f"{TRAIN}::test_finished_and_changed", "data/test_lock.py"),
        ),
        Target(
            "R10",
            "What was reported is what the saved model gives in a fresh process, largest difference of logits 0.0",
            (f"{TRAIN}::test_saved_model", f"{TRAIN}::test_the_reported", f"{TRAIN}::test_cached_states"),
        ),
        Target(
            "R11",
            "safetensors and JSON only; memory exhausted says a smaller batch that fits; checkpoints cost at most 5 % "
            "of the time (below)",
            (f"{KILL}::test_memory", "test_cli.py::test_nothing_unsafe", f"{CHECKPOINT}::test_the_manifest"),
        ),
        Target(
            "proof",
            "The tests can fail: changed lines of the code of checkpoints and manifests, one at a time, are each caught",
            ("training/test_mutations.py",),
        ),
        Target(
            "long",
            "Import, caches of features and teachers, teacher training, sweep, fit and predict, killed and begun again",
            ("test_killed.py", STOPPED, "training/test_teacher.py::test_a_stopped"),
        ),
    ),
    "Data": (
        Target(
            "D1",
            "The hostile corpus (tests/hostile.py): each file and row with its code, through check, import, training, "
            "predict and explain",
            (f"{CHECK}::test_the_hostile", f"{TRAIN}::test_the_hostile", f"{STOPPED}::test_the_hostile"),
        ),
        Target(
            "D2, D3",
            "Images by content and within limits before they are decoded; seen as people see them (16 bit, CMYK, palette, "
            "transparency, EXIF, animation)",
            (f"{CHECK}::test_images_are", f"{CHECK}::test_the_hostile_corpus_is_judged"),
        ),
        Target(
            "D4, D5",
            "Texts of any bytes; tables with ragged rows, quotes, wrong columns, doubled ids, long numbers",
            (f"{CHECK}::test_ragged", f"{CHECK}::test_mixed", f"{CHECK}::test_a_source"),
        ),
        Target(
            "D6",
            "`clfa check` names all problems at once; ten faults planted in the real MVSA-Single folder, and none else",
            (f"{CHECK}::test_ten_faults", f"{CHECK}::test_the_command", f"{CHECK}::test_every_code"),
        ),
        Target(
            "D7, D8",
            "`--on-bad fail|skip|mask`, `--max-bad`: used + skipped = all; a missing image is an error or a mask",
            (f"{CHECK}::test_the_hostile_corpus_is_imported",),
        ),
        Target(
            "D9",
            "Paths that leave the folder, links, pipes, devices and folders: refused, nothing hangs",
            (f"{CHECK}::test_the_hostile_corpus_is_judged",),
        ),
    ),
}


def main() -> None:
    """Keep the outcomes of the tests that targets name."""
    wanted = [test for targets in TARGETS.values() for target in targets for test in target.tests]
    found: dict[str, dict[str, Any]] = {}
    for path in sys.argv[1:]:
        for name, outcome in outcomes(Path(path)):
            if any(name.startswith(test) for test in wanted):
                found[name] = outcome
    STORED.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")
    print(markdown_rows(found))


def outcomes(junit: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Test, as `file::name`, and what came of it."""
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('file', '').removeprefix('tests/')}::{case.get('name')}"
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        counts = {each.get("name"): int(each.get("value", 0)) for each in case.iter("property")}
        yield name, {"outcome": outcome, **counts}


def reliability_rows(found: dict[str, dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Title -> rows of its table."""
    result = {}
    for title, targets in TARGETS.items():
        rows = [["", "Target", "Shown by", "Tests", "Counted"]]
        for target in targets:
            own = {n: each for n, each in found.items() if any(n.startswith(test) for test in target.tests)}
            outcome = Counter(each["outcome"] for each in own.values())
            counts: Counter[str] = Counter()
            for each in own.values():
                counts.update({name: value for name, value in each.items() if name != "outcome"})
            tests = ", ".join(f"{number} {name}" for name, number in sorted(outcome.items()))
            counted = ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()))
            shown = ", ".join(f"`{test}`" for test in target.tests)
            rows.append([target.id, target.what, shown, tests or "not run", counted])
        result[title] = rows
    return result


def unshown(found: dict[str, dict[str, Any]]) -> list[str]:
    """Tests that a target names and that are not there: a typing error, or a test that was removed."""
    wanted = [test for targets in TARGETS.values() for target in targets for test in target.tests]
    return [test for test in wanted if not any(name.startswith(test) for name in found)]


def markdown_rows(found: dict[str, dict[str, Any]]) -> str:
    from clfa.report.formats import markdown

    return "\n\n".join(markdown(rows) for rows in reliability_rows(found).values()) + f"\nnot there: {unshown(found)}"


if __name__ == "__main__":
    main()
