"""Frozen dataclasses to and from plain JSON; an unknown, missing or mistyped field is an error that names it."""

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from odiff.errors import OdiffError, PlanError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts and tuples lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], content: Any, where: str, error: type[OdiffError] = PlanError) -> T:
    """Build the dataclass `kind` from plain JSON content.

    Parameters
    ----------
    kind : dataclass type; its fields may be numbers, text, bool, None, tuples, dicts and other dataclasses.
    content : what `json.load` gave.
    where : path of the content for messages, for example ``plans.json: pretrain``.

    Raises
    ------
    error
        A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(content, dict):
        raise error(f"{where}: expected an object with the fields of {kind.__name__}, got {content!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in fields:
            raise error(f"{where}: unknown field {key!r}{closest(key, fields)}")
    for name, field in fields.items():
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in content and is_required:
            raise error(f"{where}: field {name!r} is missing")
    values = {name: convert(hints[name], item, f"{where}.{name}", error) for name, item in content.items()}
    return kind(**values)


def closest(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known words where nothing is close."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def convert(kind: Any, value: Any, where: str, error: type[OdiffError] = PlanError) -> Any:
    """`value` as the type hint `kind`; `error` names `where` when it does not fit."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return from_plain(typing.cast(type, kind), value, where, error)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(kind), value, where, error)
    if origin is tuple:
        return _convert_tuple(typing.get_args(kind), value, where, error)
    if origin is dict and isinstance(value, dict):
        _, item_kind = typing.get_args(kind)
        return {str(key): convert(item_kind, item, f"{where}.{key}", error) for key, item in value.items()}
    if kind is Any or _is_scalar(kind, value):
        return float(value) if kind is float else value
    raise error(f"{where}: expected {_name(kind)}, got {value!r}")


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str, error: type[OdiffError]) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    fitting = [kind for kind in kinds if _is_scalar(kind, value)] or kinds
    return convert(fitting[0], value, where, error)


def _convert_tuple(kinds: tuple[Any, ...], value: Any, where: str, error: type[OdiffError]) -> tuple:
    if not isinstance(value, list | tuple):
        raise error(f"{where}: expected a list, got {value!r}")
    if kinds[-1] is Ellipsis:
        return tuple(convert(kinds[0], item, f"{where}[{i}]", error) for i, item in enumerate(value))
    if len(value) != len(kinds):
        raise error(f"{where}: expected {len(kinds)} values, got {len(value)}")
    return tuple(
        convert(kind, item, f"{where}[{i}]", error) for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _is_scalar(kind: Any, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float)
    return kind in (int, str) and isinstance(value, kind)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
