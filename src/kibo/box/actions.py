"""Actions as callers see them: what each takes and gives, with the checks on the way in and on the way out.

An argument is checked before it leaves the host; a result is data from an untrusted guest until it is checked here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kibo.box.define import Action, Box, Effect
from kibo.box.inheritance import actions_of
from kibo.box.results import to_builtins
from kibo.box.signature import ANYTHING, Slot, read_signature, shown
from kibo.model.errors import InvalidArguments, InvalidResult


class ActionSpec:
    """One action of a plan.

    Attributes:
        name: Its name.
        part: The index of the part that it is an action of.
        streaming: Whether it yields items before its result.
        effect: What it does to the outside world.
        timeout_s: Seconds it may take; None leaves it to the limits.
        doc: Its docstring.
        recorded: Whether the ledger has its calls.
        key: What names one intent, or empty; see `kibo.box.marks.key_of`.
        compensator: What undoes it: an action of its own part, whatever else is called so in a sum. None for nothing.
        verifier: What tells whether it has happened, likewise.
        label: Its class and its name: what a key stands for something of.
        plain: Whether the guest can use the arguments as they arrive; otherwise it restores them
            (`kibo.box.schema.restore_arguments`).
        parameters: Its parameters, in order.
    """

    __slots__ = (
        "_by_name", "_item", "_positional", "_required", "_result",
        "compensator", "doc", "effect", "key", "label", "name", "parameters", "part", "plain", "recorded", "streaming",
        "timeout_s", "verifier",
    )  # fmt: skip

    def __init__(self, cls: type[Box], action: Action, part: int) -> None:
        signature = read_signature(cls, action)
        self.name: str = action.__name__
        self.part = part
        self.streaming = action.streaming
        self.effect: Effect = action.effect
        self.timeout_s = action.timeout_s
        self.doc: str = action.__doc__ or ""
        self.recorded, self.key = action.recorded, action.key
        self.label = f"{cls.__name__}.{action.__name__}"
        self.compensator = _beside(cls, action.compensate, part)
        self.verifier = _beside(cls, action.verify, part)
        self.parameters = signature.parameters
        self.plain = all(slot.plain for slot in signature.parameters)
        self._by_name = {slot.name: (index, slot) for index, slot in enumerate(signature.parameters)}
        self._positional = sum(not slot.keyword_only for slot in signature.parameters)
        self._required = [
            (index, slot.name) for index, slot in enumerate(signature.parameters) if slot.required
        ]
        self._item = signature.item
        self._result = signature.result
        self._prepare()

    def _prepare(self) -> None:
        """Makes the validators of types that need one, so that a type that cannot travel is an error at once."""
        for slot in (*self.parameters, self._item, self._result):
            if slot is not None and not slot.plain:
                from kibo.box.schema import adapter_of  # pydantic: only where a type needs it

                adapter_of(slot)

    def __repr__(self) -> str:
        return f"ActionSpec({self.name!r}, part={self.part})"

    def check_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], later: Collection[str] = ()
    ) -> tuple[list[Any], dict[str, Any]]:
        """Checks a call's arguments and turns them into builtins that a message can hold.

        Costs about 2 us for scalars, and pydantic's validation for everything else.

        Args:
            args: Those by position.
            kwargs: Those by name.
            later: Names of parameters that are not known yet: they may be missing.

        Raises:
            InvalidArguments: One is missing, unknown, given twice or of the wrong type; names it, what was expected
                and what came. The action did not start; never retry.
        """
        given = len(args)
        if given > self._positional:
            raise self._refused("", f"takes at most {self._positional} by position, got {given}")
        positional = [self._sent(slot, value) for slot, value in zip(self.parameters, args, strict=False)]
        named: dict[str, Any] = {}
        for name, value in kwargs.items():
            found = self._by_name.get(name)
            if found is None:
                known = ", ".join(self._by_name) or "none"
                raise self._refused(name, f"has no parameter {name!r}; it takes {known}")
            if found[0] < given:
                raise self._refused(name, f"got {name!r} both by position and by name")
            named[name] = self._sent(found[1], value)
        for index, name in self._required:
            if index >= given and name not in named and name not in later:
                raise self._refused(name, f"needs {name!r}", expected=shown(self.parameters[index].type))
        return positional, named

    def by_name(self, positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Names the arguments of a checked call; those that it leaves out have their defaults, where a message can."""
        found = dict(zip((slot.name for slot in self.parameters), positional, strict=False)) | dict(named)
        for slot in self.parameters:
            if slot.name not in found:
                with suppress(InvalidResult):
                    found[slot.name] = to_builtins(slot.default)
        return found

    def among(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of some arguments that it has parameters for."""
        return {slot.name: arguments[slot.name] for slot in self.parameters if slot.name in arguments}

    def _sent(self, slot: Slot, value: Any) -> Any:
        try:
            if type(value) in slot.accepts or slot.type is ANYTHING:
                return to_builtins(value)
            from kibo.box.schema import ValueRefused, validated

            try:
                return to_builtins(validated(slot, value))
            except ValueRefused as refused:
                expected, got = shown(slot.type), type(value).__name__
                raise self._refused(
                    slot.name,
                    f"{slot.name!r} must be {expected}, got {got}{refused}",
                    expected=expected,
                    got=got,
                ) from None
        except InvalidResult as unsendable:
            raise self._refused(slot.name, f"{slot.name!r}: {unsendable.message}") from None

    def _refused(self, parameter: str, problem: str, **details: Any) -> InvalidArguments:
        takes = ", ".join(
            f"{s.name}: {shown(s.type)}{'' if s.required else ' = ...'}" for s in self.parameters
        )
        return InvalidArguments(
            f"{self.name}(): {problem}",
            hint=f"{self.name}({takes})",
            details={"action": self.name, "parameter": parameter, **details},
        )

    def check_result(self, data: Any) -> Any:
        """Turns the builtins that a guest sent into the declared result.

        Raises:
            InvalidResult: They are not of the declared type. What the action did has happened.
        """
        return self._received(self._result, data, "returned")

    def check_item(self, data: Any) -> Any:
        """Turns the builtins of one streamed item into the declared type; raises as `check_result`."""
        return self._received(self._item or self._result, data, "yielded")

    def _received(self, slot: Slot, data: Any, verb: str) -> Any:
        if type(data) in slot.accepts or slot.type is ANYTHING:
            return data
        from kibo.box.schema import ValueRefused, validated

        try:
            return validated(slot, data)
        except ValueRefused as refused:
            expected, got = shown(slot.type), type(data).__name__
            raise InvalidResult(
                f"{self.name}() {verb} something that is not {expected}: {got}{refused}",
                hint=f"Return what {self.name}() is annotated with, or mend the annotation.",
                details={"action": self.name, "expected": expected, "got": got},
            ) from None


def _beside(cls: type[Box], name: str, part: int) -> ActionSpec | None:
    """Another action of a part, as what a call of the first leads to: what it says of its own effect does not count."""
    if not name:
        return None
    marked = actions_of(cls)[name]
    bare = Action(marked.function, marked.effect, marked.timeout_s)
    bare.hints = marked.hints
    return ActionSpec(cls, bare, part)
