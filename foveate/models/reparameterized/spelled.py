"""A variant with its options in one word: `hashed_linear:quantiser=ksh`, `mixture:format=apot2,ratio=2`."""

import ast
import inspect
from typing import Any

from foveate.errors import InputError
from foveate.registry import Registry

Spelled = tuple[str, dict[str, Any]]


def spelled(text: str, registry: Registry[Any], also: str) -> Spelled | None:
    """Name and options; None for the word `also`, which leaves what is there.

    Raises:
        InputError: an unknown name, an option without value.

    >>> from foveate.linears import LINEARS
    >>> spelled("mixture:format=apot2,ratio=2", LINEARS, "linear")
    ('mixture', {'format': 'apot2', 'ratio': 2})
    """
    name, colon, rest = text.partition(":")
    if name == also and not colon:
        return None
    if name not in registry:
        known = sorted({also, *registry})
        raise InputError(f"unknown {registry.kind} {name!r}; known: {', '.join(known)}")
    options = {}
    for each in filter(None, rest.split(",")):
        key, equals, value = each.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"{registry.kind} {text!r}: {each!r} is no option; allowed: name=value, such as ratio=2")
        options[key] = _value(value)
    return name, options


def taken(cls: type, made: Any, options: dict[str, Any], where: str) -> Any:
    """What `made` returns; a complaint about options becomes one that names those of `cls`.

    Raises:
        InputError: an option that the variant does not have.
    """
    try:
        return made()
    except TypeError as e:
        parameters = inspect.signature(cls.__init__).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("heads", "width")]
        given = ", ".join(f"{k}={v}" for k, v in options.items())
        raise InputError(f"{where} with {given}: {e}; its options: {', '.join(known) or 'none'}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)
