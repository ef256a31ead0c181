"""Merges of instances' worlds: conflicts are named as whoever is in the instance would."""

from __future__ import annotations

from pathlib import Path

from kibo.branch.deltas import Deltas
from kibo.branch.worlds import InstanceWorld
from kibo.model.ids import DeltaId
from kibo.runtime.layers.home import prepare_home
from kibo.runtime.trees.conflict import KEEP, Conflict, Resolution

#: No host has it.
PLACE = "kibo-of-a-test"
ENVIRONMENT = ("0" * 64,)


def made(deltas: Deltas, text: str) -> InstanceWorld:
    """An instance that has written one file below its root and one below /usr."""
    name = DeltaId.new()
    for tree in ("u", f"usr-u/{PLACE}"):
        (deltas.path(name) / tree).mkdir(parents=True)
        (deltas.path(name) / tree / "file").write_text(text)
    return InstanceWorld("b2:0", "Box()", ENVIRONMENT, (name,))


def test_a_conflict_is_named_as_in_the_instance_also_to_the_resolver(tmp_path: Path) -> None:
    prepare_home(tmp_path)
    deltas = Deltas(tmp_path, DeltaId.new)
    deltas.layer(*ENVIRONMENT).mkdir(parents=True)
    base = InstanceWorld("b2:0", "Box()", ENVIRONMENT, ())
    asked: list[tuple[str, str]] = []

    def resolver(conflict: Conflict) -> Resolution:
        asked.append((conflict.instance, conflict.shown))
        return KEEP

    sides = (base, made(deltas, "ours"), made(deltas, "theirs"))
    chain, conflicts = deltas.merge("box", sides, resolver)
    assert asked == [("box", "/file"), ("box", f"/usr/{PLACE}/file")]
    assert [(each.instance, each.shown) for each in conflicts] == asked
    assert chain == sides[1].deltas
