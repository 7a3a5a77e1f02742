"""The command line of the service as it is, and whether a line of a document is one that it takes."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer.main

from payment_service.access.people import Role
from payment_service.access.service import Scope
from payment_service.cli import app
from payment_service.cli.commands import Deferred
from payment_service.events.outbox import EventType
from payment_service.languages import Language

Words = tuple[str, ...]
_PLACEHOLDER: Final = re.compile(r"[A-Z][A-Z_@.]*|.*\.\.\..*|\$.*")
"""What stands for a value in a document: ``SHOP_ID``, ``...``, ``$URL``."""
_WORDS: Final[dict[str, set[str]]] = {
    "--scope": {*Scope},
    "--role": {*Role},
    "--event": {*EventType},
    "--events": {*EventType},
    "--language": {*Language},
}
"""Values of options that are checked only when the command runs."""


def tree(command: Any = None, words: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Every command and every group, with the words that call it."""
    command = typer.main.get_command(app) if command is None else command
    command = command.load() if isinstance(command, Deferred) else command
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from tree(below, (*words, name))


def words_of(line: str) -> list[str] | None:
    """The words after ``payment-service``, if a line runs it; comments, pipes and redirections are left out."""
    before, program, after = line.partition("payment-service")
    if not program or not re.fullmatch(r"|(?:.*[\s(/])", before) or not re.match(r"$|\s+(--)?[a-z]", after):
        return None
    try:
        words = shlex.split(after, comments=True)
    except ValueError:
        return None
    ends = [number for number, word in enumerate(words) if word in {"|", ">", ">>", "&&", ";", "2>"}]
    return words[: ends[0]] if ends else words


def can_run(words: Sequence[str], commands: dict[Words, Any]) -> bool:
    """Whether a line is a whole command, without placeholders."""
    is_group = hasattr(commands.get(tuple(words)), "commands")
    placeholders = [word for word in words if _PLACEHOLDER.fullmatch(word)]
    return not (is_group or placeholders or mistakes(words, commands, whole=True))


def mistakes(words: Sequence[str], commands: dict[Words, Any], *, whole: bool = False) -> list[str]:
    """What of a command the command line would refuse; ``...`` may stand for anything that is left out.

    Values are held against their types unless they are placeholders, so a scope or an event that does not exist is
    found. What is required has to be there when the line says more than the command's name, and if it is ``whole``.
    """
    path: Words = ()
    left = list(words)
    while left and (*path, left[0]) in commands:
        path = (*path, left.pop(0))
    command = commands[path]
    if hasattr(command, "commands") and left and not left[0].startswith("-") and left[0] != "...":
        return [f"there is no command {left[0]!r} in {' '.join(path) or 'payment-service'}"]
    options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    found: list[str] = []
    given: list[Any] = []
    positionals: list[str] = []
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word == "--help" or (_PLACEHOLDER.fullmatch(word) and "..." in word):
            given.extend(command.params)
        elif not re.match(r"--?[a-z]", word):
            positionals.append(word)
        elif name not in options:
            found.append(f"there is no option {name}")
        elif option := options[name]:
            given.append(option)
            if not option.is_flag:
                found += _wrong(option, value if equals else left.pop(0) if left else "")
    for argument in arguments:
        taken, positionals = (positionals, []) if argument.nargs == -1 else (positionals[:1], positionals[1:])
        given += [argument] if taken else []
        found += [each for word in taken for each in _wrong(argument, word)]
    found += [f"{word!r} is one word too many" for word in positionals]
    if whole or len(words) > len(path):
        found += [f"{each.opts[0]} is missing" for each in command.params if _is_missed(each, given)]
    return found


def _is_missed(parameter: Any, given: list[Any]) -> bool:
    return parameter.required and parameter not in given and not parameter.envvar


def _wrong(parameter: Any, value: str) -> list[str]:
    if _PLACEHOLDER.fullmatch(value):
        return []
    name = parameter.opts[0]
    if name in _WORDS:
        return [f"{name} does not take {word!r}" for word in value.split(",") if word not in _WORDS[name]]
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    try:
        parameter.get_runtime_param().coerce([value] if several else value, param=parameter, ctx=None)
    except Exception as error:  # noqa: BLE001 - whatever a type says of a value
        return [f"{name} does not take {value!r}: {error}"]
    return []
