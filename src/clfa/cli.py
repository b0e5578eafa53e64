"""The command line: options and help from the functions of `clfa.commands`. Progress goes to stderr, results to stdout."""

import argparse
import errno
import inspect
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin

from docstring_parser import Docstring, parse
from jsonargparse import (
    ActionYesNo,
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)

from clfa import __version__, commands, lacking
from clfa.errors import UserError

Command = Callable[..., object]
COMMANDS: dict[str, Command | dict[str, Command]] = {
    "demo": commands.demo,
    "import": {
        "mmsd": commands.import_mmsd,
        "mmsd2": commands.import_mmsd2,
        "mvsa": commands.import_mvsa,
        "table": commands.import_table,
    },
    "fit": commands.fit,
    "check": commands.check,
    "audit": commands.audit,
    "correct": commands.correct,
    "select": commands.select,
    "teacher": {"train": commands.teacher_train, "embed": commands.teacher_embed},
    "cache": commands.cache,
    "train": commands.train,
    "evaluate": commands.evaluate,
    "sweep": commands.sweep,
    "reproduce": commands.reproduce,
    "compare": commands.compare,
    "probe": commands.probe,
    "predict": commands.predict,
    "explain": commands.explain,
    "export": commands.export,
    "serve": commands.serve,
    "bench": commands.bench,
}
GROUPS = {
    "import": "Turn raw files into a dataset directory: Parquet with the images inside, dataset.json, dropped.jsonl.",
    "teacher": "Train or apply a teacher.",
}

HELP_OF = {
    errno.EACCES: "make it readable and writable, or choose another place",
    errno.EPERM: "make it readable and writable, or choose another place",
    errno.EROFS: "the file system is read-only, choose another place",
    errno.ENOSPC: "make room; what was written before is whole, and the same command goes on from it",
    errno.EDQUOT: "your share of the disk is used up: make room, and give the same command again",
}
"""What helps where the operating system refuses."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def run() -> None:
    """Entry point of the `clfa` script."""
    received: list[int] = []

    def end(number: int, _: Any) -> None:
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background of a shell
        signal.signal(signal.SIGINT, end)
    logging.getLogger("clfa").propagate = False  # libraries that set up the root logger would write each line once more
    # nothing is downloaded unless a hub name is given; usage statistics never
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = main()
    except Exception:  # what compiled code made of the signal, which it met
        if not received:
            raise
        code = 1
    sys.exit(128 + received[0] if received and code else code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad usage or input, 3 a check found errors, 130
    interrupted.

    Anything else that fails is a fault of ours: the exception passes, and Python prints it and exits with 1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words, command = _find_command(given)
    parser = _new_parser("Understand posts that mix text and an image.", prog="clfa", version=__version__)
    _add_commands(parser, COMMANDS, words)
    if not given:
        parser.print_help()
        return 2
    _log_to_stderr()
    try:
        options = parser.instantiate(parser.parse_args(given))
        for word in words:
            options = options[word]
        with redirect_stdout(sys.stderr):  # results alone go to stdout, whatever libraries print
            result = command(**_values(command, options))
        if result is not None:  # one of several processes speaks
            _print(result, options.json)
    except ArgumentError as error:
        return _refuse(f"{error}\nSee `clfa {' '.join([*words, '--help'])}`")
    except UserError as error:
        return _refuse(f"{error} [{error.code}]" if error.code else str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("clfa"):
            raise
        return _refuse(lacking(error))
    except BrokenPipeError:  # whoever read the output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in HELP_OF:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{place}{error.strerror}: {HELP_OF[error.errno]}")
    except KeyboardInterrupt:
        print("clfa: interrupted", file=sys.stderr)
        return 130
    return getattr(result, "exit_code", 0)


def _find_command(given: Sequence[str]) -> tuple[list[str], Any]:
    """The first of the given words, as far as they lead to a command, and where they lead."""
    words: list[str] = []
    place: Any = COMMANDS
    for word in given:
        if not isinstance(place, dict) or word not in place:
            break
        words.append(word)
        place = place[word]
    return words, place


class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the examples; commands take it over from the main parser."""


def _new_parser(description: str, **settings: Any) -> ArgumentParser:
    return ArgumentParser(description=description, formatter_class=Formatter, exit_on_error=False, **settings)


def _add_commands(parser: ArgumentParser, added: dict[str, Any], words: Sequence[str]) -> None:
    """All commands; only those among `words` get their options, which take most of the time to build."""
    subcommands = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    for name, command in added.items():
        if isinstance(command, dict):
            group = _new_parser(GROUPS[name])
            subcommands.add_subcommand(name, group, help=GROUPS[name])
            _add_commands(group, command, words)
        else:
            documented = parse(inspect.getdoc(command) or "")
            subparser = _new_parser(_description(documented))
            if name in words:
                _add_options(subparser, command, documented)
            subcommands.add_subcommand(name, subparser, help=documented.short_description)


def _description(documented: Docstring) -> str:
    examples = next((meta.description or "" for meta in documented.meta if meta.args[0] == "examples"), "")
    lines = "\n".join(f"  {line.strip()}" for line in examples.splitlines() if line.strip())
    return "\n\n".join(filter(None, [documented.short_description, documented.long_description, f"examples:\n{lines}"]))


def _add_options(parser: ArgumentParser, command: Command, documented: Docstring) -> None:
    """From the signature: parameters before `*` are positional, the others options; a configuration is all of its fields."""
    helps = {parameter.arg_name: parameter.description for parameter in documented.params}
    for name, parameter in inspect.signature(command).parameters.items():
        kind, help = parameter.annotation, helps.get(name)
        if is_dataclass(kind):
            parser.add_argument("--config", action="config", help="YAML file with the options below.")
            parser.add_class_arguments(kind)
            continue
        if get_origin(kind) is Annotated:
            kind, shared_help = get_args(kind)
            help = help or shared_help
        settings: dict[str, Any] = {"help": help, "type": kind}
        several = get_origin(kind) in (list, Sequence)
        if kind is bool:
            settings = {"help": help, "action": ActionYesNo(no_prefix="no-")}
        elif several:
            settings |= {"type": get_args(kind)[0], "nargs": "+", "action": "extend"}
        if parameter.default is not parameter.empty:
            settings["default"] = list(parameter.default) if several else parameter.default
        if parameter.kind is parameter.KEYWORD_ONLY:
            settings["required"] = parameter.default is parameter.empty
            name = "--" + name.replace("_", "-")
        parser.add_argument(name, **settings)
    parser.add_argument("--json", action="store_true", help="Print one JSON object to stdout.")


def _values(command: Command, options: Namespace) -> dict[str, Any]:
    """Parameter -> value; those of a configuration are all of its fields."""
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind: Any = parameter.annotation
        if is_dataclass(parameter.annotation):
            values[name] = kind(**{field.name: options[field.name] for field in fields(kind)})
        else:
            values[name] = options[name]
    return values


def _print(result: object, as_json: bool) -> None:
    if as_json:
        from clfa.evidence.results import as_dict

        print(json.dumps(as_dict(result), ensure_ascii=False), flush=True)
    elif type(result) is dict:
        print("\n".join(_lines(result)), flush=True)
    else:
        from clfa.report.formats import terminal

        print(terminal(result), flush=True)


def _lines(result: dict[str, Any]) -> list[str]:
    """`name: value`, the entries of mappings indented below their name."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in value.items()]
        else:
            lines.append(f"{name}: {value}")
    return lines


def _refuse(message: str) -> int:
    print(f"clfa: {message}", file=sys.stderr)
    return 2


def _log_to_stderr() -> None:
    logger = logging.getLogger("clfa")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [Lines()]


class Lines(logging.Handler):
    """Messages as plain lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
