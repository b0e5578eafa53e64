"""Results as JSON and back, by the type hints of their dataclasses."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clfa.data.atomic import read_json, write_json
from clfa.errors import UserError

T = TypeVar("T")


def write_result(path: Path, result: Any) -> None:
    """Store a result as JSON."""
    write_json(path, as_dict(result))


def read_result(kind: type[T], path: Path) -> T:
    """Read a stored result.

    Raises:
        UserError: there is no such file, or it was written by a version whose results have another shape.
    """
    values = read_json(path)
    if values is None:
        raise UserError(f"{path} not found")
    try:
        return from_dict(kind, values)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} was written by another version of clfa ({error}): make it again") from None


def as_dict(value: Any) -> Any:
    """A result, or anything in one, as dictionaries and lists."""
    if is_dataclass(value):
        stored = [each.name for each in fields(value) if each.metadata.get("stored", True)]
        return {name: as_dict(getattr(value, name)) for name in stored}
    if isinstance(value, dict):
        return {key: as_dict(entry) for key, entry in value.items()}
    return [as_dict(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def from_dict(kind: Any, value: Any) -> Any:
    """The inverse of `as_dict`, by the type hints of dataclasses, lists, dictionaries and optional values."""
    arguments = get_args(kind)
    if value is None or not (arguments or is_dataclass(kind)):
        return value
    if get_origin(kind) is list:
        return [from_dict(arguments[0], entry) for entry in value]
    if get_origin(kind) is dict:
        return {key: from_dict(arguments[1], entry) for key, entry in value.items()}
    if arguments:  # X | None
        return from_dict(next(each for each in arguments if each is not NoneType), value)
    hints = get_type_hints(kind)
    return kind(**{name: from_dict(hints[name], entry) for name, entry in value.items() if name in hints})
