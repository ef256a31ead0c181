"""Files that say what is wanted: YAML, read strictly, with the place of each thing so that an error can name it.

What YAML would guess is left out: `no` is text, as JSON has it, and so are dates; a key that is there twice, an alias
or a tag is an error. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NoReturn

import yaml

from kibo.model.errors import KiboError, ManifestInvalid
from kibo.model.limits import MAX_MANIFEST_BYTES, MAX_MANIFEST_DEPTH, MAX_WANTED

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One document of a file.

    Attributes:
        value: What it says.
        places: Where each thing stands in the file: the line and the column, both from 1.
        source: The file, for errors.
    """

    value: dict[str, Any]
    places: Mapping[Path, tuple[int, int]]
    source: str

    def refuse(self, path: Path, problem: str, hint: str) -> NoReturn:
        """Raises `ManifestInvalid` about one thing, or what is nearest above it."""
        while path and path not in self.places:
            path = path[:-1]
        raise _refused(self.source, *self.places[path], problem, hint)

    def refuse_as(self, path: Path, error: KiboError) -> NoReturn:
        """Raises an error about one thing as one that says where it stands."""
        try:
            self.refuse(path, error.message, error.hint)
        except ManifestInvalid as refused:
            refused.details |= {"cause": error.code} | error.details
            raise refused from error


def read_documents(text: str, source: str) -> list[Document]:
    """Reads a file's documents; empty ones are left out.

    Raises:
        ManifestInvalid: It is no YAML, or not of the part of it that is read.
    """
    if len(text.encode(errors="surrogateescape")) > MAX_MANIFEST_BYTES:
        raise _refused(
            source, 1, 1, "the file is too large", f"At most {MAX_MANIFEST_BYTES:,} bytes are read."
        )
    try:
        nodes = [node for node in yaml.compose_all(text, _Loader) if not _is_empty(node)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise _refused(source, line, column, problem, _remedy(problem)) from None
    except yaml.YAMLError as error:  # a character that no YAML has
        raise _refused(source, 1, 1, " ".join(str(error).split()), "Save the file as UTF-8 text.") from None
    except RecursionError:
        raise _refused(source, 1, 1, "it is nested too deep", _DEEP) from None
    if len(nodes) > MAX_WANTED:
        raise _refused(
            source, 1, 1, f"{len(nodes)} documents", f"At most {MAX_WANTED} are read from one file."
        )
    return [_document(node, source) for node in nodes]


def check_fields(
    document: Document, path: Path, value: object, known: Mapping[str, type | tuple[type, ...]]
) -> None:
    """Checks that something has no fields but those that are known, each of its type.

    Raises:
        ManifestInvalid: It has; the hint names the nearest.
    """
    if not isinstance(value, dict):
        document.refuse(path, f"{_named(path)} has no fields", f"Give {', '.join(known)} below it.")
    for name, found in value.items():
        if name not in known:
            document.refuse((*path, name), f"unknown field {name!r}", nearest(name, known))
        kinds = known[name]
        if not isinstance(found, kinds) or (isinstance(found, bool) and kinds is not bool):
            wanted = " or ".join(_WORDS[each] for each in (kinds if isinstance(kinds, tuple) else (kinds,)))
            document.refuse((*path, name), f"{name} is {_WORDS.get(type(found), 'empty')}", f"Give {wanted}.")


def nearest(word: str, known: Mapping[str, Any]) -> str:
    """Says what may have been meant by a word that is not known."""
    close = get_close_matches(word.lower(), {each.lower(): each for each in known}, n=1)
    meant = next((each for each in known if close and each.lower() == close[0]), None)
    return f"Did you mean {meant!r}?" if meant else f"There is {', '.join(known)}."


_WORDS: Final = {
    str: "text", int: "a number", float: "a number", bool: "true or false", dict: "a mapping", list: "a list"
}  # fmt: skip
_CORE: Final = "tag:yaml.org,2002:"
_DEEP: Final = f"At most {MAX_MANIFEST_DEPTH} levels are read."


class _Loader(yaml.SafeLoader):
    """Knows what JSON knows, and text."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "an alias or anchor", event.start_mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"{_CORE}{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def _document(node: yaml.Node, source: str) -> Document:
    if not isinstance(node, yaml.MappingNode):
        line, column = _place(node)
        raise _refused(source, line, column, "a document has no fields", "Begin it with kind: and name:.")
    places: dict[Path, tuple[int, int]] = {}
    return Document(_value(node, (), places, source), places, source)


def _value(node: yaml.Node, path: Path, places: dict[Path, tuple[int, int]], source: str) -> Any:
    places.setdefault(path, _place(node))
    if len(path) > MAX_MANIFEST_DEPTH:
        raise _refused(source, *_place(node), "it is nested too deep", _DEEP)
    kind = node.tag.removeprefix(_CORE)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return dict(_items(node, path, places, source))
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(each, (*path, number), places, source) for number, each in enumerate(node.value)]
    return _scalar(node, kind, source)


def _items(
    node: yaml.MappingNode, path: Path, places: dict[Path, tuple[int, int]], source: str
) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(name, str):
            raise _refused(source, *_place(key), "a key is no text", "Write name: value.")
        if name in seen:
            raise _refused(source, *_place(key), f"{name!r} is there twice", "Leave one of them out.")
        seen.add(name)
        places[*path, name] = _place(key)
        yield name, _value(value, (*path, name), places, source)


def _scalar(node: yaml.Node, kind: str, source: str) -> Any:
    text = node.value if isinstance(node, yaml.ScalarNode) else node.tag
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    try:
        if kind == "int":
            return int(text)
        if kind == "float" and math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise _refused(
        source,
        *_place(node),
        f"{text[:80]!r} is no value",
        "Write it without a tag, and text between quotation marks.",
    )


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and not node.value and not node.style)


def _remedy(problem: str) -> str:
    if "alias" in problem or "anchor" in problem:
        return 'Put what begins with * or & between quotation marks, as in cron: "*/5 * * * *".'
    if "mapping values are not allowed" in problem:
        return "See that the lines above end, and put a value that has ': ' in it between quotation marks."
    if "block end" in problem or "indent" in problem:
        return "Indent the fields of one thing alike."
    if "'\\t'" in problem:
        return "Indent with spaces."
    return "See that quotation marks and brackets are closed, and that fields are indented alike."


def _named(path: Path) -> str:
    return str(path[-1]) if path else "the document"


def _refused(source: str, line: int, column: int, problem: str, hint: str) -> ManifestInvalid:
    return ManifestInvalid(
        f"{source}:{line}:{column}: {problem}",
        hint=hint,
        details={"file": source, "line": line, "column": column},
    )
