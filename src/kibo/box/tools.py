"""Actions as tool definitions of model providers.

They hold names, guidance and arguments, and nothing of how a box is made: no path, image, package, host or command.
"""

from typing import Any, Literal, get_args

from kibo.box.actions import ActionSpec
from kibo.box.define import Box
from kibo.box.plan import Plan, plan
from kibo.box.schema import json_schema, renamed
from kibo.box.skills import cleaned
from kibo.model.errors import InvalidInput

Format = Literal["openai", "anthropic", "mcp"]

_SECTIONS = (
    "args",
    "arguments",
    "parameters",
    "returns",
    "yields",
    "raises",
    "example",
    "examples",
    "note",
    "notes",
)


def tools(box: Box, format: Format = "openai") -> list[dict[str, Any]]:
    """Returns the tool definitions of a box's actions, in the order of its parts.

    Args:
        box: The definition.
        format: ``openai`` (chat completions), ``anthropic`` (messages) or ``mcp`` (tools/list).

    Raises:
        InvalidInput: `format` is none of these.
        UnmetNeed: As for `plan`.
    """
    return tools_of_plan(plan(box), format)


def tools_of_plan(plan: Plan, format: Format = "openai") -> list[dict[str, Any]]:
    """Returns the tool definitions of a resolved definition's actions; see `tools`."""
    if format not in get_args(Format):
        raise InvalidInput(f"{format!r} is not a tool format", hint=f"One of {', '.join(get_args(Format))}.")
    return [_tool(spec, format) for spec in plan.actions.values()]


def guidance(box: Box) -> str:
    """Returns the guidance of all parts, in order of launch: what a prompt says before the tools."""
    return "\n\n".join(part.guidance for part in plan(box).parts if part.guidance)


def _tool(spec: ActionSpec, format: Format) -> dict[str, Any]:
    description, arguments = split_doc(spec.doc)
    schema = argument_schema(spec, arguments)
    if format == "openai":
        return {
            "type": "function",
            "function": {"name": spec.name, "description": description, "parameters": schema},
        }
    key = "input_schema" if format == "anthropic" else "inputSchema"
    return {"name": spec.name, "description": description, key: schema}


def argument_schema(spec: ActionSpec, described: dict[str, str]) -> dict[str, Any]:
    """Returns the JSON Schema of an action's arguments, as one object."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for slot in spec.parameters:
        schema = _beside(definitions, json_schema(slot))
        definitions.update(schema.pop("$defs", {}))
        if slot.name in described:
            schema = {**schema, "description": described[slot.name]}
        properties[slot.name] = schema
    whole: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [slot.name for slot in spec.parameters if slot.required],
        "additionalProperties": False,
    }
    return {**whole, "$defs": definitions} if definitions else whole


def _beside(definitions: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with such names for its definitions that none stands for two types in one tool."""
    own = schema.get("$defs", {})
    apart, number = schema, 1
    while any(definitions.get(name, part) != part for name, part in apart.get("$defs", {}).items()):
        number += 1
        apart = renamed(schema, {name: f"{name}_{number}" for name in own})
    return apart


def split_doc(doc: str) -> tuple[str, dict[str, str]]:
    """Splits a Google-style docstring into its text, without the section of arguments, and what that says of each."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    section, current = "", ""
    for line in cleaned(doc).split("\n"):
        heading = (
            line.rstrip()[:-1].lower() if line.rstrip().endswith(":") and line[:1] not in (" ", "\t") else ""
        )
        if heading in _SECTIONS:
            section = heading
        elif line and line[0] not in " \t":
            section = ""
        if section not in _SECTIONS[:3]:
            text.append(line)
        elif heading not in _SECTIONS and line.strip():
            name, colon, rest = line.strip().partition(":")
            word = name.partition("(")[0].strip()
            if colon and word.isidentifier() and _indent(line) <= 4:
                current, arguments[word] = word, rest.strip()
            elif current:
                arguments[current] = f"{arguments[current]} {line.strip()}".strip()
    return "\n".join(text).strip(), arguments


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
