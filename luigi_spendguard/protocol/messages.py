"""`Message`: a frozen value with a JSON form, read strictly by the types of its fields and described by them.

What a field may hold stands in its type: `Text`, `Flag` and the like are types with a `Kind`, which says how
JSON is read and how OpenAPI describes it. mypy sees the plain type, such as `str`.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from luigi_spendguard.money import MAX_MICROS

M = TypeVar("M", bound="Message")
Schema = Mapping[str, Any]

#: Longest text accepted in a field of a call (its body excepted).
MAX_TEXT = 4096
#: A message with more fields than this does not name them all to who sends one that it does not know.
_NAMED = 12

#: What is told whoever meets another version of us.
UPGRADE = (
    "both ends are of different versions: upgrade luigid first, then a gateway apart, then the workers "
    "(docs/operate.md)"
)


class BadMessage(ValueError):
    """A message does not have the fields or types it must have."""


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return value.to_json() if isinstance(value, Message) else value


@dataclass(frozen=True, eq=False)
class Kind:
    """What a field may hold.

    Attributes:
        read: returns the value of the field of that name, as it stands in JSON. Raises BadMessage.
        schema: the same, as OpenAPI says it.
        write: returns a value as it stands in JSON.
        missing: what is wrong when the field has no default and is not there; "": what is wrong with null.

    """

    read: Callable[[str, Any], Any]
    schema: Schema
    missing: str = ""
    write: Callable[[Any], Any] = _written


def text(most: int = 1000, *, empty: bool = False) -> Kind:
    """Return the kind of a text of `most` characters at the most; `empty`: of none, too."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > most or not (value or empty):
            raise BadMessage(f"{name!r} must be a text of 1 to {most} characters")
        return value

    least = {} if empty else {"minLength": 1}
    return Kind(read, {"type": "string", **least, "maxLength": most})


def texts(most: int) -> Kind:
    """Return the kind of a list of `most` texts at the most."""

    def read(name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise BadMessage(f"{name!r} must be a list of {most} texts at the most")
        if not all(isinstance(one, str) and 0 < len(one) <= 1000 for one in value):
            raise BadMessage(f"{name!r} must be texts of 1 to 1000 characters")
        return tuple(value)

    return Kind(read, {"type": "array", "items": text().schema, "maxItems": most})


def one_of(names: Collection[str]) -> Kind:
    """Return the kind of a text that is one of `names`."""

    def read(name: str, value: Any) -> str:
        if (known := text().read(name, value)) not in names:
            raise BadMessage(f"{name!r} must be one of {', '.join(names)}")
        return str(known)

    return Kind(read, {"type": "string", "enum": list(names)})


def number(least: int, most: int, what: str, schema: Schema) -> Kind:
    """Return the kind of a whole number from `least` to `most`; `what` says to people what it must be."""

    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BadMessage(f"{name!r} must be {what}")
        return value

    return Kind(read, {"type": "integer", **schema})


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadMessage(f"{name!r} must be true or false")
    return value


def run_name(name: str, value: Any) -> str:
    """Return a text that names a run. Raises BadMessage."""
    stripped = str(text(255).read(name, value)).strip()  # Blanks at its ends are no part of a name.
    if not stripped:
        raise BadMessage(f"{name!r} must be more than blanks")
    return stripped


def _same_type(name: str, value: Any, wanted: type) -> None:
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise BadMessage(f"{name!r} must be of type {wanted.__name__}")


def _plain(wanted: type, schema: str, check: Callable[[str, Any], None] | None = None) -> Kind:
    def read(name: str, value: Any) -> Any:
        _same_type(name, value, wanted)
        if check is not None:
            check(name, value)
        return value

    return Kind(read, {"type": schema}, "a required field is missing")


def plain_text(most: int, *, empty: bool = True) -> Kind:
    """Return the kind of a call's text of `most` characters at the most; not `empty`: of one at least."""

    def check(name: str, value: str) -> None:
        if len(value) > most:
            raise BadMessage(f"{name!r} is too long")
        if not (value or empty):
            raise BadMessage(f"{name!r} must not be empty")

    return _plain(str, "string", check)


def plain_words(most: int) -> Kind:
    """Return the kind of a call's names, which JSON has in one text of `most` characters, blank between."""
    joined = plain_text(most)

    def read(name: str, value: Any) -> tuple[str, ...]:
        return tuple(joined.read(name, value).split())

    return Kind(read, joined.schema, joined.missing, " ".join)


def plain_choice(names: Collection[str]) -> Kind:
    """Return the kind of a call's text that is one of `names`."""

    def check(name: str, value: str) -> None:
        if value not in names:
            raise BadMessage(f"{name!r} must be one of {', '.join(names)}")

    return _plain(str, "string", check)


def plain_number(least: int | None = None, most: int = MAX_MICROS) -> Kind:
    """Return the kind of a call's whole number, within the bounds that are given."""

    def check(name: str, value: int) -> None:
        if abs(value) > max(MAX_MICROS, most):
            raise BadMessage(f"{name!r} is out of range")
        if least is not None and not least <= value <= most:
            bounds = "not be negative" if most == MAX_MICROS else f"be from {least} to {most}"
            raise BadMessage(f"{name!r} must {bounds}")

    return _plain(int, "integer", check)


def _check_texts(name: str, value: dict[Any, Any]) -> None:
    if not all(isinstance(part, str) for item in value.items() for part in item):
        raise BadMessage(f"{name!r} must map texts to texts")


#: Fields as our own routes take them.
Text = Annotated[str, text()]
Family = Annotated[str, text(255)]
Id = Annotated[str, text(64)]
Flag = Annotated[bool, Kind(_flag, {"type": "boolean"})]
RunName = Annotated[str, Kind(run_name, text(255).schema)]
RunId = Annotated[str, Kind(run_name, text().schema)]
#: USD as a decimal: it is read where the amount is used, by `money.parse_usd`.
USD = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,6})?$", "description": "USD, as a decimal."}
Usd = Annotated[str, Kind(text().read, USD)]
_ID = {**text().schema, "description": "Repeating a change with the same id changes nothing twice."}
RequestId = Annotated[str, Kind(text().read, _ID)]
#: Micro-dollars of a call's message.
Amount = Annotated[int, plain_number(0)]
#: Names of objects, of customers or of keys in a call's message.
Words = Annotated[tuple[str, ...], plain_words(MAX_TEXT)]

#: How fields are read whose type has no `Kind`.
_PLAIN: Mapping[Any, Kind] = {
    str: plain_text(MAX_TEXT),
    int: plain_number(),
    bool: _plain(bool, "boolean"),
    dict: _plain(dict, "object", _check_texts),
}


class _Field(NamedTuple):
    name: str
    kind: Kind
    nullable: bool
    required: bool
    default: Any


class Message:
    """A frozen dataclass of plain values, texts by name, and tuples of texts or of messages."""

    #: Whether JSON may have no other fields.
    strict: ClassVar[bool] = True

    def to_json(self) -> dict[str, Any]:
        """Return the message for JSON, without what is as it is by default."""
        values = ((each, getattr(self, each.name)) for each in _fields(type(self)))
        return {each.name: each.kind.write(value) for each, value in values if value != each.default}

    def check(self) -> None:
        """Raise BadMessage for what could not be read from JSON: a text that is too long, say."""
        for each in _fields(type(self)):
            value = getattr(self, each.name)
            if value != each.default and not (value is None and each.nullable):
                each.kind.read(each.name, each.kind.write(value))

    def without(self: M, names: AbstractSet[str]) -> M:
        """Return the message, and those in it, without fields of these names, which have a default."""
        values: dict[str, Any] = {}
        for name, _, _, _, default in _fields(type(self)):
            value = default if name in names else getattr(self, name)
            if isinstance(value, tuple):
                value = tuple(one.without(names) if isinstance(one, Message) else one for one in value)
            values[name] = value.without(names) if isinstance(value, Message) else value
        return type(self)(**values)

    @classmethod
    def from_json(cls: type[M], data: Any, **known: str) -> M:
        """Build the message from decoded JSON and from fields `known` otherwise. Raises BadMessage."""
        if not isinstance(data, dict):
            raise BadMessage("expected a JSON object")
        fields = [each for each in _fields(cls) if each.name not in known]
        if cls.strict:
            _refuse_others(data, [each.name for each in fields])
        values: dict[str, Any] = dict(known)
        for name, kind, nullable, required, _ in fields:
            if name in data:
                value = data[name]
                values[name] = None if value is None and nullable else kind.read(name, value)
            elif required and kind.missing:
                raise BadMessage(kind.missing)
            elif required:
                values[name] = kind.read(name, None)
        return cls(**values)


@dataclass(frozen=True)
class NoFields(Message):
    """Nothing more is to be said."""


class LenientMessage(Message):
    """A reply: it says everything, and one of another version may say more, or less, than is known here."""

    strict = False

    def to_json(self) -> dict[str, Any]:
        """Return the message for JSON, without what is not known of it."""
        values = ((each, getattr(self, each.name)) for each in _fields(type(self)))
        known = [(each, value) for each, value in values if value is not None or each.required]
        return {each.name: each.kind.write(value) for each, value in known}


#: How a refusal begins of what only another version says.
_NOT_KNOWN = ("unknown field ", "unknown query parameter ", "a required field is missing")


def other_version(refusal: str) -> str:
    """Return what mends a refusal that is owed to another version at the other end; "" for any other."""
    return UPGRADE if refusal.startswith(_NOT_KNOWN) else ""


#: Fields that say more than an earlier luigid knows, and that it can do without.
_SPARE = re.compile(r"unknown field '(looked_ms|tags|vendor_request|taggable|tag)'")


def spare_field(refusal: str) -> str:
    """Return the field that a refusal is owed to, where the same may be said without it; else ""."""
    found = _SPARE.search(refusal)
    return found[1] if found else ""


def _refuse_others(data: dict[str, Any], names: list[str]) -> None:
    if unknown := sorted(set(data) - set(names)):
        taken = f": this route takes {', '.join(names) or 'none'}" if len(names) <= _NAMED else ""
        raise BadMessage(f"unknown field {unknown[0]!r}{taken}")


def schema(cls: type[Message], *without: str) -> dict[str, Any]:
    """Return a message's description for OpenAPI, `without` some of its fields."""
    fields = [each for each in _fields(cls) if each.name not in without]
    properties = {
        each.name: {**each.kind.schema, **({"nullable": True} if each.nullable else {})} for each in fields
    }
    described: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [each.name for each in fields if each.required]
    return described | ({"required": required} if required else {})


def prepare(*messages: type[Message]) -> None:
    """Look up now how these messages are read and written: a process that is forked later knows it."""
    for each in messages:
        _fields(each)


_known: dict[type[Message], tuple[_Field, ...]] = {}


def _fields(cls: type[Any]) -> tuple[_Field, ...]:
    """Return the fields of a message; looked up once."""
    if cls not in _known:
        hints = get_type_hints(cls, include_extras=True)
        fields = []
        for each in dataclasses.fields(cls):
            required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            fields.append(_Field(each.name, *_kind_of(hints[each.name]), required, each.default))
        _known[cls] = tuple(fields)
    return _known[cls]


def _kind_of(hint: Any) -> tuple[Kind, bool]:
    """Return how a type is read, and whether it may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        (base,) = (one for one in get_args(hint) if one is not type(None))
        return _kind_of(base)[0], True
    if get_origin(hint) is Annotated:
        return next(one for one in hint.__metadata__ if isinstance(one, Kind)), False
    if get_origin(hint) is tuple:
        return _tuple_of(get_args(hint)[0]), False
    if isinstance(hint, type) and issubclass(hint, Message):
        return Kind(lambda _, one: hint.from_json(one), schema(hint), "a required field is missing"), False
    return _PLAIN[get_origin(hint) or hint], False


def _tuple_of(item: Any) -> Kind:
    """Return the kind of a list, of messages or of plain values, as a reply has it."""
    kind = _PLAIN.get(item) or Kind(lambda _, one: item.from_json(one), schema(item))

    def read(name: str, value: Any) -> tuple[Any, ...]:
        _same_type(name, value, list)
        return tuple(kind.read(name, one) for one in value)

    return Kind(read, {"type": "array", "items": kind.schema}, "a required field is missing")
