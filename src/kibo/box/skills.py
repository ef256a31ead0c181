"""The guidance of a Box: its docstring, or a SKILL.md file that it names.

Reading that file is the one thing that definitions do with the outside world.
"""

from typing import NamedTuple

from kibo.box.define import Box
from kibo.box.places import located
from kibo.model.errors import InvalidDefinition
from kibo.model.limits import MAX_SKILL_BYTES


class Skill(NamedTuple):
    """What a SKILL.md says: the name and description of its front matter, and its text."""

    name: str
    description: str
    text: str


def guidance_of(cls: type[Box]) -> str:
    """Returns the guidance of a Box class, its own or the nearest base's; empty where there is none.

    Raises:
        InvalidDefinition: The file that `skill` names is missing, too large or not UTF-8.
    """
    for owner in cls.__mro__:
        if owner is Box or not issubclass(owner, Box):
            continue
        skill = owner.__dict__.get("skill")
        if skill:
            return _skill_text(owner, skill)
        if owner.__doc__:
            return cleaned(owner.__doc__)
    return ""


def is_path(skill: str) -> bool:
    """Says whether a `skill` attribute names a file, rather than being the guidance itself."""
    return "\n" not in skill and skill.endswith(".md")


def _skill_text(owner: type[Box], skill: str) -> str:
    if not is_path(skill):
        return cleaned(skill)
    parsed = read_skill(located(owner, skill))
    return "\n\n".join(piece for piece in (parsed.description, parsed.text) if piece)


def read_skill(path: str) -> Skill:
    """Reads a SKILL.md.

    Raises:
        InvalidDefinition: It is missing, too large or not UTF-8. Retry once it is mended.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_SKILL_BYTES + 1)
        if len(raw) > MAX_SKILL_BYTES:
            raise InvalidDefinition(
                f"the skill file {path} is larger than {MAX_SKILL_BYTES} bytes",
                hint="Keep what a model should always read in it, and the rest in files that it may open.",
            )
        return parse_skill(raw.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDefinition(
            f"the skill file {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="`skill` is relative to the file that defines the class.",
            details={"path": path},
        ) from error


def parse_skill(text: str) -> Skill:
    """Parses the text of a SKILL.md: optional front matter between two `---` lines, then the guidance.

    Of the front matter only `name` and `description` are read, each on one line, or folded over indented lines.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return Skill("", "", text.strip())
    end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == "---")
    fields: dict[str, str] = {}
    current = ""
    for line in lines[1:end]:
        if line[:1] in (" ", "\t") and current:
            fields[current] = f"{fields[current]} {line.strip()}".strip()
        elif ":" in line:
            current, _, value = line.partition(":")
            current = current.strip()
            fields[current] = value.strip() if value.strip() not in (">", "|", ">-", "|-") else ""
    name, description = (_unquoted(fields.get(key, "")) for key in ("name", "description"))
    return Skill(name, description, "\n".join(lines[end + 1 :]).strip())


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def cleaned(text: str) -> str:
    """The text without the indentation of its lines after the first, as `inspect.cleandoc` has it."""
    lines = text.expandtabs().strip().split("\n")
    margins = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(margins, default=0)
    return "\n".join([lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]).strip()
