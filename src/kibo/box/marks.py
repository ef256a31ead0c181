"""What actions say of their effects: how to undo, verify and tell them apart. Checked when their class is made.

Names are those of the class itself: a sum may have another action of that name, and each part undoes its own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from string import Formatter
from typing import Any, Final

from kibo.box.define import Action, Box
from kibo.box.inheritance import actions_of
from kibo.model.errors import InvalidArguments, InvalidDefinition

#: By what a compensator is told what the call returned.
RESULT: Final = "result"
_CHANGING: Final = ("bufferable", "reversible", "irreversible")
#: Of a key, which is typed and read by people too.
_MAX_KEY: Final = 1000


def check_marks(cls: type[Box]) -> None:
    """Checks all that the actions of a class say of their effects.

    Raises:
        InvalidDefinition: What one names is not there, or is not made for it.
    """
    actions = actions_of(cls)
    for action in actions.values():
        if action.marked:
            _check(cls, action, actions)


def _check(cls: type[Box], action: Action, actions: Mapping[str, Action]) -> None:
    where = f"{cls.__name__}.{action.__name__}"
    given = _parameters(action.function)
    if action.streaming:
        raise _wrong(where, "streams, and what is recorded has one result", "Return a list.")
    if action.effect not in _CHANGING:
        raise _wrong(
            where,
            f"has the effect {action.effect!r}",
            f"Say what it changes: effect= one of {', '.join(_CHANGING)}.",
        )
    if action.compensate:
        if action.effect != "reversible":
            raise _wrong(
                where, f"is {action.effect} and has compensate=", 'What can be undone is effect="reversible".'
            )
        undoes = _named(where, "compensate", action.compensate, actions)
        if undoes is action:
            raise _wrong(
                where, "is said to undo itself", "Write an action that undoes it, and name that one."
            )
        _check_given(where, undoes, {*given, RESULT})
    if action.verify:
        tells = _named(where, "verify", action.verify, actions)
        if tells.effect != "read":
            raise _wrong(
                where,
                f"has verify={tells.__name__!r}, which does not only read",
                f'@action(effect="read") marks {tells.__name__}().',
            )
        if not action.recorded:
            raise _wrong(
                where,
                "has verify= and is not recorded",
                "Give it key=, or compensate= where it is reversible.",
            )
        _check_given(where, tells, given)
    if action.key:
        _check_key(where, action.key, given)


def _named(where: str, mark: str, name: str, actions: Mapping[str, Action]) -> Action:
    found = actions.get(name)
    if found is None:
        known = ", ".join(sorted(actions))
        raise _wrong(
            where,
            f"has {mark}={name!r}, which is no action of its class",
            f"Mark {name}() with @action, or name one of: {known}.",
        )
    if found.streaming:
        raise _wrong(where, f"has {mark}={name!r}, which streams", f"Let {name}() return what it has to say.")
    return found


def _check_given(where: str, called: Action, given: Iterable[str]) -> None:
    needs = [
        name
        for name, parameter in _parameters(called.function).items()
        if parameter.default is parameter.empty and name not in given
    ]
    if needs:
        raise _wrong(
            where,
            f"does not have what {called.__name__}() needs: {', '.join(needs)}",
            f"{called.__name__}() gets its arguments by name: name them alike, or give them defaults.",
        )


def _check_key(where: str, key: object, given: Mapping[str, Any]) -> None:
    if isinstance(key, str):
        try:
            names = [name for _, name, _, _ in Formatter().parse(key) if name is not None]
        except ValueError as error:
            raise _wrong(
                where, f"has key={key!r}, which is no format: {error}", 'Write key="{order}".'
            ) from None
    elif callable(key):
        names = list(inspect.signature(key).parameters)
    else:
        raise _wrong(where, f"has key={key!r}", 'Write key="{order}", or give a function of arguments.')
    unknown = [name for name in names if name not in given]
    if unknown:
        raise _wrong(
            where,
            f"has a key of {', '.join(map(repr, unknown))}, which are no parameters of it",
            f"It has: {', '.join(given) or 'none'}.",
        )


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(function).parameters.items())[1:])


def _wrong(where: str, what: str, hint: str) -> InvalidDefinition:
    return InvalidDefinition(f"{where} {what}", hint=hint, details={"action": where})


def key_of(name: str, key: str | Callable[..., str], arguments: Mapping[str, Any]) -> str:
    """Names the intent of a call.

    Args:
        name: Of the action.
        key: Its ``key=``.
        arguments: By name, as builtins.

    Raises:
        InvalidArguments: The arguments give no key. The action did not start.
    """
    try:
        if isinstance(key, str):
            found: object = key.format_map(arguments)
        else:
            found = key(**{each: arguments[each] for each in inspect.signature(key).parameters})
    except Exception as error:  # a function of the user's may raise whatever it likes
        raise InvalidArguments(
            f"{name}(): its key cannot be made: {type(error).__name__}: {error}",
            hint="The key is made of the arguments as they are sent: builtins, by name.",
            details={"action": name},
        ) from error
    if not isinstance(found, str) or not 0 < len(found) <= _MAX_KEY:
        raise InvalidArguments(
            f"{name}(): its key is {found!r:.80}",
            hint=f"A key is text of 1 to {_MAX_KEY} characters.",
            details={"action": name},
        )
    return found
