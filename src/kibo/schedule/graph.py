"""Runs that come after others: in which order they can be stored, and what leads round. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kibo.model.errors import RunCycle


def in_order(waits: Mapping[str, Sequence[str]]) -> list[str]:
    """Orders runs so that each comes behind all that it waits for. Linear; ties stay as they were given.

    Args:
        waits: By run, those that it waits for. What is no run of these is there already.

    Raises:
        RunCycle: Some wait for each other; the error names them.
    """
    done: dict[str, None] = {}
    for first in waits:
        path: list[str] = []
        # Each frame is a run and what is left of its waits; recursion would end at the interpreter's limit.
        frames = [(first, iter(waits[first]))] if first not in done else []
        under_way = {first}
        while frames:
            name, left = frames[-1]
            if len(path) < len(frames):
                path.append(name)
            found = next((each for each in left if each in waits and each not in done), None)
            if found is None:
                frames.pop()
                under_way.discard(path.pop())
                done[name] = None
            elif found in under_way:
                raise cycle([*path[path.index(found) :], found])
            else:
                under_way.add(found)
                frames.append((found, iter(waits[found])))
    return list(done)


def cycle(names: Sequence[str]) -> RunCycle:
    """Makes the error for runs that wait for each other.

    Args:
        names: In order, with the first once more at the end.
    """
    shown = names if len(names) <= 12 else [*names[:6], "...", *names[-5:]]
    return RunCycle(f"runs wait for each other: {' after '.join(shown)}", details={"cycle": list(names)})
