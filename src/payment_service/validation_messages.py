"""Sentences about wrong requests and settings, since Pydantic's messages speak of dictionaries and instances."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic_core import core_schema

_A_TIME: Final = "must be a time in the form of ISO 8601, such as 2025-10-22T10:00:00+05:00"
_TOO_LARGE: Final = "is too large a number"
_SENTENCES: Final = MappingProxyType(
    {
        "missing": "is required",
        "none_required": "must be null",
        **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), "must be an object"),
        **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), "must be a list"),
        "string_type": "must be a text",
        "string_unicode": "must be a text in UTF-8",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "invalid_key": "must have strings as names",
        **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
        "int_parsing_size": _TOO_LARGE,
        **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "must be a number"),
        "finite_number": _TOO_LARGE,
        "greater_than": "must be more than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "multiple_of": "must be a multiple of {multiple_of}",
        **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
        **dict.fromkeys(("enum", "literal_error"), "must be {expected}"),
        **dict.fromkeys(("uuid_type", "uuid_parsing", "uuid_version"), "must be a UUID"),
        **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing"), _A_TIME),
        "datetime_object_invalid": _A_TIME,
        "timezone_aware": "must say its offset from UTC, such as +05:00",
        **dict.fromkeys(("url_type", "url_parsing", "url_syntax_violation", "url_scheme"), "must be a URL"),
        "url_too_long": "must have at most {max_length} characters",
        "recursion_loop": "is nested too deeply",
    }
)
_OF_PYDANTIC: Final = frozenset(get_args(core_schema.ErrorType))
_KINDS: Final = MappingProxyType(
    {
        "int": ("int_", "a whole number"),
        "float": ("float_", "a number"),
        "str": ("string_", "a text"),
        "bool": ("bool_", "true or false"),
    }
)
"""By Pydantic's name of a type: the prefix of its error types, and our words for it."""
_FORM: Final = re.compile(r"\^\[(.+)\]\{([0-9]+)(?:,([0-9]+))?\}\$")
_CHARACTERS: Final = MappingProxyType(
    {
        "0-9": "digits",
        "A-Za-z0-9": "Latin letters and digits",
        "A-Za-z0-9_-": "Latin letters, digits, _ and -",
        "a-z0-9_-": "small Latin letters, digits, _ and -",
        "!-~": "visible ASCII characters",
    }
)
"""What a pattern allows, in words: every one that a request is checked by has its line."""
_JSON_TROUBLES: Final = (
    ("codec can't", "it is not text in UTF-8"),
    ("recursion", "it is nested too deeply"),
    ("integer string conversion", "a number in it has too many digits"),
    ("decimal.", "a number in it is too large or too small"),
)
"""Our sentences for errors of Python's JSON parser, by a part of its message."""


def sentence_of(error: Mapping[str, Any]) -> str:
    """The sentence about one validation error, without the field, with which it begins."""
    context = error.get("ctx", {})
    match error["type"]:
        case "json_invalid":
            return f"is not valid JSON: {_json_trouble(str(context['error']))}"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "string_too_short" | "too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_short":
            return f"must have at least {context['min_length']} {_counted(context)}"
        case "too_long":
            return f"must have at most {context['max_length']} {_counted(context)}"
        case "string_pattern_mismatch":
            return _form_of(str(context["pattern"]))
        case kind if kind in _SENTENCES:
            return _SENTENCES[kind].format_map(context).removesuffix(".0")
        case kind if kind in _OF_PYDANTIC and kind != "extra_forbidden":
            return "is not valid here"
    # A message of our own; that of an unknown field has the nearest name (strict).
    return str(error["msg"])


def one_for_each_value(errors: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors, with one for a value of none of several types, for which Pydantic reports each type."""
    errors = list(errors)
    kinds: dict[tuple[int | str, ...], list[str]] = {}
    for error in errors:
        if _is_of_a_kind(error):
            kinds.setdefault(error["loc"][:-1], []).append(_KINDS[error["loc"][-1]][1])
    several = {place: words for place, words in kinds.items() if len(words) > 1}
    merged = [
        {"type": "of_no_kind", "loc": place, "msg": f"must be {' or '.join(words)}"} for place, words in several.items()
    ]
    return merged + [one for one in errors if not _is_of_a_kind(one) or one["loc"][:-1] not in several]


def _is_of_a_kind(error: Mapping[str, Any]) -> bool:
    kind = error["loc"][-1]
    return kind in _KINDS and str(error["type"]).startswith(_KINDS[kind][0])


def _counted(context: Mapping[str, Any]) -> str:
    # Pydantic calls a text a "Value" when its length is checked after a validator of ours.
    return "characters" if context["field_type"] == "Value" else "entries"


def _form_of(pattern: str) -> str:
    form = _FORM.fullmatch(pattern)
    if form is None or form[1] not in _CHARACTERS:
        return "is not valid here"
    return f"must be {form[2]}{f' to {form[3]}' if form[3] else ''} {_CHARACTERS[form[1]]}"


def _json_trouble(message: str) -> str:
    return next((plain for words, plain in _JSON_TROUBLES if words in message), message)
