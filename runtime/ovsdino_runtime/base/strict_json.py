"""Convert JSON to frozen dataclasses and back; unknown keys, missing keys and wrong types are errors.

Only a field whose default is None may be missing, so that older files can still be read.
"""

import dataclasses
import json
import math
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def dumps(record: object) -> str:
    """Write a dataclass as indented JSON, its keys in the order of its fields.

    Raises:
        ValueError: a value has no form in JSON, such as NaN.
    """
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"expected a dataclass instance, got {record!r}")
    return json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str) -> object:
    """Read JSON; reject repeated keys, NaN and infinity.

    Raises:
        ValueError: the text is not valid JSON, or is rejected.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse(kind: type[Record], raw: object, where: str = "") -> Record:
    """Build the dataclass ``kind`` from decoded JSON.

    Args:
        kind: the dataclass; its fields may be dataclasses, ``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str,
            X]``, ``Literal``, unions, ``object`` (anything), ``str``, ``int``, ``float`` and ``bool``.
        raw: what `loads` returned.
        where: dotted path of ``raw``, for messages.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type; the message names its path.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where or 'the top level'}: expected an object, got {_name(raw)}")
    hints = _hints(kind)  # type: ignore[arg-type] # a class is hashable
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields if field.name in raw or field.default is not None]
    _check_keys(set(names), set(raw), where)
    values = {name: _value(hints[name], raw[name], f"{where}.{name}" if where else name) for name in names}
    try:
        return kind(**values)
    except ValueError as error:  # the dataclass's own checks
        raise ValueError(f"{where or kind.__name__}: {error}") from error


_hints = cache(get_type_hints)  # takes half of the time of reading a manifest, whose parts are of a few types


def _check_keys(known: set[str], present: set[str], where: str) -> None:
    prefix = f"{where}: " if where else ""
    if missing := sorted(known - present):
        raise ValueError(f"{prefix}missing key {', '.join(missing)}")
    if unknown := sorted(present - known):
        raise ValueError(f"{prefix}unknown key {', '.join(unknown)}")


def _value(hint: object, raw: object, where: str) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is object or hint is Any:
        return raw
    if dataclasses.is_dataclass(hint):
        return parse(hint, raw, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(raw, list):
        kinds = arguments[:1] * len(raw) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(raw):
            raise ValueError(f"{where}: expected {len(kinds)} values, got {len(raw)}")
        return tuple(_value(k, r, f"{where}[{i}]") for i, (k, r) in enumerate(zip(kinds, raw, strict=True)))
    if origin is dict and isinstance(raw, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in raw.items()}
    if origin is Literal and raw in arguments:
        return raw
    if origin in (Union, UnionType):
        part = next((kind for kind in arguments if dataclasses.is_dataclass(kind)), None)
        if part is not None and raw is not None:  # an optional part
            return parse(part, raw, where)  # type: ignore[arg-type]
        hint = tuple(arguments)
    elif hint is float and type(raw) is int:
        try:
            return float(raw)
        except OverflowError:
            raise ValueError(f"{where}: the number is too large") from None
    if isinstance(raw, float) and not math.isfinite(raw):  # such as 1e999
        raise ValueError(f"{where}: {raw} is not a finite number")
    if origin not in (tuple, dict, Literal) and type(raw) in (hint if isinstance(hint, tuple) else (hint,)):
        return raw
    raise ValueError(f"{where}: expected {_name_type(hint)}, got {_name(raw)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _name(raw: object) -> str:
    text = json.dumps(raw) if not isinstance(raw, float) or math.isfinite(raw) else str(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name_type(hint: object) -> str:
    if isinstance(hint, tuple):
        return " or ".join(_name_type(h) for h in hint)
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
