"""Writes figures into a page: ``python -m benchmarks.report FIGURES.json SPECIFICATION.md``.

What stands between the two markers of the page is replaced by a table of the figures, so that nobody copies numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import written

BEGIN = "<!-- figures: written by `python -m benchmarks.report` -->"
END = "<!-- end of figures -->"


def main() -> int:
    """Replaces the table of each page that is named. Returns 1 if a page has no place for one."""
    found = json.loads(Path(sys.argv[1]).read_text())
    for name in sys.argv[2:]:
        page = Path(name)
        head, begin, rest = page.read_text().partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not begin or not end:
            print(f"{name} has no place for figures: {BEGIN} ... {END}", file=sys.stderr)
            return 1
        page.write_text(f"{head}{BEGIN}\n{markdown(found)}{END}{tail}")
    return 0


def markdown(found: dict[str, Any]) -> str:
    """Lays the figures out, the users side by side."""
    users = list(dict.fromkeys(entry["user"] for entry in found["figures"]))
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in found["figures"]:
        rows.setdefault((entry["title"], entry["figure"]["name"].strip()), {})[entry["user"]] = entry[
            "figure"
        ]
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [f"Measured on: {machine}. Median / p99 where two numbers stand.", ""]
    lines += ["| what | " + " | ".join(f"as {user}" for user in users) + " | unit | promised |"]
    lines += ["|---|" + "--:|" * len(users) + "---|--:|"]
    title = ""
    for (of, name), by_user in rows.items():
        if of != title:
            title = of
            lines.append(f"| **{title}** |" + " |" * (len(users) + 2))
        any_figure = next(iter(by_user.values()))
        cells = [cell(by_user.get(user)) for user in users]
        promised = " / ".join(
            f"{any_figure[key]:g}" for key in ("target", "target_p99") if any_figure[key] is not None
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {any_figure['unit']} | {promised} |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, Any] | None) -> str:
    """Writes one figure, in bold where a promise is not kept."""
    if figure is None:
        return ""
    text = written(figure, "value") + (f" / {written(figure, 'p99')}" if figure["p99"] is not None else "")
    return f"**{text}**" if figure["kept"] is False else text


if __name__ == "__main__":
    sys.exit(main())
