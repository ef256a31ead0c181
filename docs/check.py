"""Checks that the documentation holds together: every link leads somewhere, every Python example compiles, and the
reference is what the source says.

Run by `make docs`. Prints each problem with its file and line, and exits with 1 if there is one.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*```(\w*)")


def pages() -> list[Path]:
    """The Markdown files of the repository's root, of docs/ and of examples/."""
    return sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")})


def anchor(heading: str) -> str:
    """The anchor that hosts of Markdown give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line.lstrip("#")) for line in page.read_text().splitlines() if line.startswith("#")}


def problems(page: Path) -> Iterator[tuple[int, str]]:
    code: list[str] = []
    language, start = None, 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if fence and language is None:
            language, start, code = fence[1], number, []
        elif fence:
            if language in ("python", "py"):
                yield from compiled("\n".join(code), start)
            language = None
        elif language is not None:
            code.append(line)
        else:
            for match in LINK.finditer(line):
                yield from followed(page, match[1] or match[2], number)
    if language is not None:
        yield start, "a code block is not closed"


def compiled(code: str, line: int) -> Iterator[tuple[int, str]]:
    try:
        ast.parse(textwrap.dedent(code))
    except SyntaxError as error:
        yield line + (error.lineno or 0), f"the example does not compile: {error.msg}"


def followed(page: Path, target: str, line: int) -> Iterator[tuple[int, str]]:
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return
    path, _, fragment = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists():
        yield line, f"a link leads nowhere: {target}"
    elif fragment and there.suffix == ".md" and fragment not in anchors(there):
        yield line, f"a link's heading is not there: {target}"


def main() -> int:
    found = [f"{page.relative_to(ROOT)}:{line}: {text}" for page in pages() for line, text in problems(page)]
    found += [f"{page.relative_to(ROOT)}: `make reference` writes it anew" for page in reference.outdated()]
    print("\n".join(found) or f"docs: {len(pages())} pages hold together")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
