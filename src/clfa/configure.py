"""YAML and dictionaries <-> the dataclasses of `clfa.config`, validated by jsonargparse."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from clfa.errors import UserError

T = TypeVar("T")


def build_config(cls: type[T], values: dict[str, Any]) -> T:
    """A dictionary -> frozen dataclass, with defaults.

    Raises:
        UserError: an unknown key or a value of the wrong type (named).
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "config")
    try:
        # a copy, as jsonargparse changes nested dictionaries in place
        return parser.instantiate_classes(parser.parse_object({"config": copy.deepcopy(values)})).config
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"configuration: {error}") from None


def load_config(cls: type[T], path: str | Path) -> T:
    """A YAML file -> frozen dataclass.

    Raises:
        UserError: no such file, not YAML, or not such a configuration.
    """
    return build_config(cls, read_yaml(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, or not a YAML mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no YAML mapping")
    return values


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.write_text(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def override(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted names changed: `{"loss.alignment_weight": 0, "model.modalities.image": None}`.

    `None` for an entry of `model.modalities` takes it out; anywhere else it is the value.
    """
    values = copy.deepcopy(values)
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None and parents[-1:] == ["modalities"]:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return values
