"""A dataclass as one Flower `ConfigRecord` and back: the one place where typed messages become flat values.

A message is a frozen dataclass. Its annotations are the whole schema; no field is listed a second time. On the wire a
field has the name that it has here, with hyphens, and a field at its default is left out: what a run does not use is
not in its messages.

    bool, int, float, str, int | str, tuple[int, ...]                      the value itself, a tuple as a list
    a dataclass, a mapping of texts, a fraction, a tuple of tuples         JSON text, read by the same rules
    a fraction | a dataclass                                               JSON text: a text, or named fields
    X | None                                                               X, or absent

What arrives comes from a peer. A value must have exactly its field's type (true is no number, 1.0 no whole number; a
whole number will do for a number), numbers are finite and whole ones fit 64 bits, texts are bounded, unknown fields are
errors, and nothing is evaluated. Defaults do not cross the wire, so whoever changes one counts up `VERSION`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from functools import lru_cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from flwr.app import ConfigRecord, RecordDict

from protocol.arrays import WireError
from protocol.text import escaped, quoted

VERSION = 3
MOST_CHARACTERS = 1 << 24  # of a text: the units that a plan lists may be many
_FEW = 80  # characters of a value that an error quotes
_REMEMBERED = 1 << 12  # characters up to which a text is remembered with what it means
_FRACTION = re.compile(r"\d{1,40}(/\d{1,40})?")
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

T = TypeVar("T")
Read = Callable[[object], Any]


def to_config(message: object) -> ConfigRecord:
    """A message as the values of a record, with the version of the protocol."""
    schema = _schema(type(message))
    values = {name: _flat(value) if name in schema.flat else to_text(value) for name, value in schema.said(message)}
    return ConfigRecord({"version": VERSION, **values})


def from_config(kind: type[T], record: Mapping[str, object]) -> T:
    """Read what `to_config` wrote.

    Raises:
        WireError: another version, or fields that are unknown, missing or not what the dataclass says; one line.
    """
    values = dict(record)
    version = values.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise WireError(f"the other side speaks protocol {quoted(version, _FEW)}, this one {VERSION}")
    schema = _schema(kind)
    return cast(T, schema.read(values, schema.from_record))


def record_in(content: RecordDict, name: str) -> ConfigRecord:
    """The fields of a message.

    Not `content.config_records[name]`: flwr makes such a view at every access, as a reference cycle that keeps all of
    the message in memory until the garbage collector comes by, and that counts objects, not megabytes.

    Raises:
        WireError: there are none.
    """
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise WireError(f"no record {name!r} of fields")
    return record


def to_text(value: object) -> str:
    """A dataclass, or what a field of one may be, as JSON."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def from_text(kind: type[T], text: str) -> T:
    """Read what `to_text` wrote.

    Raises:
        WireError: it is no JSON, or as `from_config` says.
    """
    return cast(T, _from_text(_reader(cast(Any, kind)))(text))


class _Schema:
    """What the annotations of a dataclass say.

    Attributes:
        flat: names, on the wire, of the fields whose values a record holds as they are; others are text there.
        from_json: name → how a value is read that stands in JSON.
        from_record: name → how a value is read that stands in a record.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        hints = get_type_hints(kind)
        self._attributes = {field.name.replace("_", "-"): field.name for field in fields(kind)}
        self._defaults = {
            field.name: field.default if field.default_factory is MISSING else field.default_factory()
            for field in fields(kind)
        }
        self.flat = {name for name, attribute in self._attributes.items() if _is_flat(hints[attribute])}
        self.from_json = {name: _reader(hints[attribute]) for name, attribute in self._attributes.items()}
        self.from_record = {
            name: read if name in self.flat else _from_text(read) for name, read in self.from_json.items()
        }

    def said(self, message: object) -> list[tuple[str, object]]:
        """Names on the wire and values of the fields that are not at their default."""
        values = ((name, getattr(message, at), self._defaults[at]) for name, at in self._attributes.items())
        return [(name, value) for name, value, default in values if value is not default and value != default]

    def read(self, values: object, readers: Mapping[str, Read]) -> Any:
        """Make an object of what stands under these names."""
        if not isinstance(values, dict):
            _expected("named fields", values)
        found = {}
        for name, value in values.items():
            if name not in readers:
                raise WireError(f"unknown field {quoted(name, _FEW)}")
            try:
                found[self._attributes[name]] = readers[name](value)
            except WireError as error:
                raise WireError(f"{escaped(name)}: {error}") from None
        for name, attribute in self._attributes.items():
            if attribute not in found and self._defaults[attribute] is MISSING:
                raise WireError(f"{name} is missing")
        try:
            return self.kind(**found)
        except ValueError as error:  # of its own checks
            raise WireError(str(error)) from None


_schemas: dict[type[Any], _Schema] = {}


def _schema(kind: type[Any]) -> _Schema:
    if kind not in _schemas:
        _schemas[kind] = _Schema(kind)
    return _schemas[kind]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, without None."""
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(one for one in get_args(hint) if one is not NoneType)


def _is_flat(hint: Any) -> bool:
    """Whether a record can hold values of this type as they are."""
    alternatives = _alternatives(hint)
    if get_origin(alternatives[0]) is tuple:
        return get_args(alternatives[0])[0] in _SCALARS
    return all(one in _SCALARS for one in alternatives)


@lru_cache(maxsize=512)
def _reader(hint: Any) -> Read:
    """How a value of this type is read: checked, and made what the dataclass wants."""
    alternatives = _alternatives(hint)
    if all(one in _SCALARS for one in alternatives):
        return _scalar(alternatives)
    if len(alternatives) == 2 and alternatives[0] is Fraction and is_dataclass(alternatives[1]):
        several = _reader(cast(Any, alternatives[1]))
        return lambda value: several(value) if isinstance(value, dict) else _fraction(value)
    (one,) = alternatives
    if one is Fraction:
        return _fraction
    if is_dataclass(one):
        schema = _schema(cast(type[Any], one))
        return lambda value: schema.read(value, schema.from_json)
    items = get_args(one)
    if get_origin(one) is tuple:
        return _sequence(_reader(items[0])) if items[-1] is Ellipsis else _row([_reader(item) for item in items])
    if get_origin(one) is Mapping and items[0] is str:
        return _mapping(_reader(items[1]))
    raise TypeError(f"a message cannot have a field of type {hint}")


def _scalar(kinds: tuple[type, ...]) -> Read:
    wanted = " or ".join(_SCALARS[kind] for kind in kinds)
    only_float = float in kinds and int not in kinds

    def read(value: object) -> object:
        kind = type(value)
        if kind is int and only_float:
            if not -(2**63) <= cast(int, value) < 2**63:
                raise WireError("expected a whole number of 64 bits")
            kind, value = float, float(cast(int, value))
        if kind not in kinds:
            _expected(wanted, value)
        if kind is str and len(cast(str, value)) > MOST_CHARACTERS:
            raise WireError(f"expected a text of at most {MOST_CHARACTERS} characters")
        if kind is float and not isfinite(cast(float, value)):
            _expected("a finite number", value)
        if kind is int and not -(2**63) <= cast(int, value) < 2**63:
            raise WireError("expected a whole number of 64 bits")
        return value

    return read


def _fraction(value: object) -> Fraction:
    if not isinstance(value, str) or _FRACTION.fullmatch(value) is None:
        _expected('a fraction such as "1/2"', value)
    try:
        return Fraction(value)
    except ZeroDivisionError:
        _expected('a fraction such as "1/2"', value)


def _sequence(read: Read) -> Read:
    def of(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            _expected("a list", value)
        return tuple(map(read, value))

    return of


def _row(reads: list[Read]) -> Read:
    def of(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(reads):
            _expected(f"a list of {len(reads)}", value)
        return tuple(read(item) for read, item in zip(reads, value, strict=True))

    return of


def _mapping(read: Read) -> Read:
    def of(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            _expected("named values", value)
        return {name: read(item) for name, item in value.items()}

    return of


@lru_cache(maxsize=512)
def _from_text(read: Read) -> Read:
    """The reader of JSON text whose content is read by `read`; short texts are parsed once, as networks come again."""
    remembered = lru_cache(maxsize=64)(lambda text: read(_parsed(text)))

    def of(text: object) -> Any:
        if not isinstance(text, str):
            _expected("JSON text", text)
        return remembered(text) if len(text) <= _REMEMBERED else read(_parsed(text))

    return of


def _parsed(text: str) -> object:
    if len(text) > MOST_CHARACTERS:
        raise WireError(f"expected a text of at most {MOST_CHARACTERS} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also a whole number of thousands of digits
        _expected("JSON text", text)


def _flat(value: object) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {name: _plain(item) for name, item in _schema(type(value)).said(value)}
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _expected(what: str, value: object) -> NoReturn:
    raise WireError(f"expected {what}, got {quoted(value, _FEW)}")
