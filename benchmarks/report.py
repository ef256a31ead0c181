"""Writes figures into pages: ``python -m benchmarks.report FIGURES.json README.md SPECIFICATION.md``.

What stands between two markers of a page is replaced by a table of the figures, so that nobody copies numbers: all of
them after ``<!-- figures``, the few that a newcomer asks for, beside others' own, after ``<!-- summary``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import written

END = "<!-- end -->"

#: What a newcomer asks for: our figure's name, how to call it, and what others say of themselves or showed beside us.
SUMMARY = (
    (
        "spawn to first result",
        "from `spawn()` to the first action's result",
        "CubeSandbox 48 ms, Mitos 180, microsandbox 320, E2B 491 (hosted); Docker run 216 *",
    ),
    ("ours / prototype", "the same, as a multiple of the bare kernel's share", ""),
    (
        "fork of a branch, 100 files and 100 MB of state: to the child's first result",
        "from `fork()` of a branch to the child's first result, with files and 100 MB of live state",
        "Mitos 67 ms, CubeSandbox 220, CRIU 520",
    ),
    (
        "  git / branch: 10,000 files",
        "an attempt in a git worktree of 10,000 files, as a multiple of one in a branch",
        "",
    ),
    ("steps that finished", "agents' steps that finish, of 10 agents' 100 each", ""),
    ('exec("true")', "a command in a running box", "Docker exec 73 ms *"),
    ("best of these", "spawn, act, destroy, sustained", "CubeSandbox 148 to 181 /s on 96 cores"),
    (
        "memory of a box (PSS)",
        "memory of an idle box, at 1,000 of them",
        "Mitos 1.3 to 72 MiB, CubeSandbox 25.7",
    ),
    ("files.upload", "1,000 files of 10 KB into a box", ""),
    ("bubblewrap: python3 -c 'print(1)'", "for comparison: bubblewrap starting Python", ""),
)


def main() -> int:
    """Replaces the tables of each page that is named. Returns 1 if a page has no place for one."""
    found = json.loads(Path(sys.argv[1]).read_text())
    for name in sys.argv[2:]:
        page = Path(name)
        text = page.read_text()
        for begin, table in (("<!-- figures -->", markdown), ("<!-- summary -->", summary)):
            head, mark, rest = text.partition(begin)
            _, end, tail = rest.partition(END)
            if mark and end:
                text = f"{head}{begin}\n{table(found)}{END}{tail}"
        if text == page.read_text():
            print(f"{name} has no place for figures, or has them already", file=sys.stderr)
            return 1
        page.write_text(text)
    return 0


def summary(found: dict[str, Any]) -> str:
    """Lays out the figures that a newcomer asks for, as the first user measured them."""
    user = found["figures"][0]["user"]
    figures = {
        entry["figure"]["name"]: entry["figure"] for entry in found["figures"] if entry["user"] == user
    }
    lines = ["| what | Kibo | promised | others, by their own account |", "|---|--:|--:|---|"]
    for name, label, others in SUMMARY:
        figure = figures.get(name)
        if figure is not None:
            target = "" if figure["target"] is None else f"{figure['target']:g}"
            lines.append(f"| {label} | {cell(figure)} {figure['unit']} | {target} | {others} |")
    return "\n".join(
        [*lines, "", f"Measured as {user} on: {machine(found)}. Median / p99 where two numbers stand.", ""]
    )


def machine(found: dict[str, Any]) -> str:
    """Tells on what the figures were taken, and whether it was a full run."""
    text = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    return text if found["scale"] == 1 else f"{text}; {found['scale']:.0%} of the full counts"


def markdown(found: dict[str, Any]) -> str:
    """Lays the figures out, the users side by side."""
    users = list(dict.fromkeys(entry["user"] for entry in found["figures"]))
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in found["figures"]:
        rows.setdefault((entry["title"], entry["figure"]["name"].strip()), {})[entry["user"]] = entry[
            "figure"
        ]
    lines = [f"Measured on: {machine(found)}. Median / p99 where two numbers stand.", ""]
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
