"""The command line: options and help from the functions of `clfa.commands`. Progress goes to stderr, results to stdout."""

import argparse
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, get_args, get_origin

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from clfa.commands import (
    audit,
    compare,
    demo,
    evaluate,
    explain,
    import_,
    predict,
    probe,
    reproduce,
    say,
    teacher_embed,
)
from clfa.errors import UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def run() -> None:
    """Entry point of the `clfa` script."""
    sys.exit(main())


class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the examples; commands take it over from the main parser."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 bad usage or input, 130/143 interrupted."""
    from clfa import __version__
    from clfa.config import RunConfig, SweepConfig, TeacherConfig

    parser = ArgumentParser(
        prog="clfa",
        description="Understand posts that mix text and an image.",
        version=f"clfa {__version__}",
        formatter_class=Formatter,
    )
    commands = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    _add_command(commands, "demo", demo)
    _add_command(commands, "import", import_)
    _add_command(commands, "audit", audit)
    teacher = ArgumentParser(description="Train or apply a teacher.")
    commands.add_subcommand("teacher", teacher, help=teacher.description)
    teacher_commands = teacher.add_subcommands(dest="teacher_command", title="commands", metavar="COMMAND")
    _add_config_command(teacher_commands, "train", TeacherConfig, _train_teacher)
    _add_command(teacher_commands, "embed", teacher_embed)
    _add_config_command(commands, "train", RunConfig, _train)
    _add_command(commands, "evaluate", evaluate)
    _add_config_command(commands, "sweep", SweepConfig, _sweep)
    _add_command(commands, "reproduce", reproduce)
    _add_command(commands, "compare", compare)
    _add_command(commands, "probe", probe)
    _add_command(commands, "predict", predict)
    _add_command(commands, "explain", explain)

    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser.print_help()
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # nothing is downloaded unless a hub name is given; usage statistics never
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        parsed = parser.parse_args(given)
        command = parsed[parsed.command]
        name = f"{parsed.command} {command.teacher_command}" if parsed.command == "teacher" else parsed.command
        options = command[command.teacher_command] if parsed.command == "teacher" else command
        result = _COMMANDS[name](options)
        from clfa.report.terminal import readable

        print(json.dumps(result, ensure_ascii=False) if options.json else readable(result), flush=True)
    except UserError as error:
        print(f"clfa: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("clfa: interrupted", file=sys.stderr)
        return 130
    return 0


_COMMANDS: dict[str, Callable[[Any], dict[str, Any]]] = {}


def _train(options: Any) -> dict[str, Any]:
    """Train one run; the epoch is chosen on validation, the test split is never opened.

    Examples:
        clfa train --config run.yaml
        clfa train --config run.yaml --loss.alignment_weight 0 --output runs/no_alignment
        clfa train --config run.yaml --resume
    """
    from clfa.config import RunConfig, build_config
    from clfa.evidence.evaluate import evaluate as run_evaluation
    from clfa.training.train import train

    resume, values = options.resume, _config_values(options)
    run = train(build_config(RunConfig, values), resume, say=say)
    return {"run": str(run), **run_evaluation(run, "validation", say=say)}


def _train_teacher(options: Any) -> dict[str, Any]:
    """Train a dual encoder from captioned images, on any two Hugging Face encoders; reports retrieval R@1/5/10.

    Examples:
        clfa teacher train --config configs/teacher/flickr8k.yaml
        clfa teacher train --config configs/teacher/flickr8k.yaml --frozen false --learning_rate 1e-5
    """
    from clfa.config import TeacherConfig, build_config
    from clfa.training.teacher import train_teacher

    return train_teacher(build_config(TeacherConfig, _config_values(options)), say=say)


def _sweep(options: Any) -> dict[str, Any]:
    """Train several systems with several seeds or folds under one trainer; finished runs are kept.

    Examples:
        clfa sweep --config configs/mvsa_single/table.yaml --seeds 5
        clfa sweep --config configs/mvsa_single/folds.yaml --folds 5 --seeds 1
    """
    from clfa.config import SweepConfig, build_config
    from clfa.studies.sweep import sweep

    return sweep(build_config(SweepConfig, _config_values(options)), say=say)


def _config_values(options: Any) -> dict[str, Any]:
    values = options.as_dict()
    for name in ("config", "json", "resume"):
        values.pop(name, None)
    return values


def _add_command(commands: Any, name: str, function: Callable) -> None:
    """A subcommand from a signature: parameters before `*` are positional, the others options."""
    from docstring_parser import parse

    documented = parse(inspect.getdoc(function) or "")
    helps = {parameter.arg_name: parameter.description for parameter in documented.params}
    parser = _new_parser(documented)
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is inspect.Parameter.empty
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        flag = parameter.name if positional else "--" + parameter.name.replace("_", "-")
        keywords: dict[str, Any] = {} if positional else {"required": required}
        if not required:
            keywords["default"] = parameter.default
        if parameter.annotation is bool:
            keywords["action"] = ActionYesNo(no_prefix="no-")
        elif get_origin(parameter.annotation) is list:
            keywords |= {"type": get_args(parameter.annotation)[0], "nargs": "+"}
        else:
            keywords["type"] = parameter.annotation
        parser.add_argument(flag, help=helps.get(parameter.name), **keywords)
    parser.add_argument("--json", action="store_true", help="Print one JSON object to stdout.")
    commands.add_subcommand(name, parser, help=documented.short_description)
    full = f"teacher {name}" if function is teacher_embed else name

    def call(options: Any) -> dict[str, Any]:
        values = {key: value for key, value in options.as_dict().items() if key != "json"}
        return function(**values)

    _COMMANDS[full] = call


def _add_config_command(commands: Any, name: str, cls: type, function: Callable) -> None:
    """A subcommand whose options are the fields of a configuration, from `--config FILE` and the command line."""
    from docstring_parser import parse

    documented = parse(inspect.getdoc(function) or "")
    parser = _new_parser(documented)
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    if function is _train:
        parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint of OUTPUT.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object to stdout.")
    parser.add_class_arguments(cls)
    commands.add_subcommand(name, parser, help=documented.short_description)
    _COMMANDS[f"teacher {name}" if function is _train_teacher else name] = function


def _new_parser(documented: Any) -> ArgumentParser:
    examples = next((meta.description for meta in documented.meta if meta.args[0] == "examples"), "")
    lines = [f"  {line.strip()}" for line in (examples or "").splitlines() if line.strip()]
    more = f"\n\n{documented.long_description}" if documented.long_description else ""
    text = documented.short_description + more + ("\n\nexamples:\n" + "\n".join(lines) if lines else "")
    return ArgumentParser(description=text)
