"""`kibo gc`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from kibo.cli.branches import counted, short, standing
from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value, size
from kibo.cli.progress import BuildDisplay
from kibo.model.durations import seconds
from kibo.runtime.images.building import collect_layers
from kibo.runtime.layers.home import prepare_home, state_home


def gc(
    *,
    unused: str = "7d",
    closed: str = "7d",
    effects: str = "30d",
    snapshots: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    all: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Remove what nothing needs: layers that no process uses and no build has asked for lately, branches that ended.

    The files of branches go with them, unless a label, a branch or a later snapshot still reaches them. Effects that
    ended go once their branch is gone and their key stands for nothing; what waits or is in doubt stays.

    Args:
        unused: How long ago a layer must have been used last, or a workspace frozen, such as 12h or 7d.
        closed: How long ago a branch must have been committed or aborted, such as 0s or 30d.
        effects: How long ago an effect must have ended, such as 0s or 90d.
        snapshots: How many of each branch's, the newest, can be started from afterwards; of the rest the files go, and
            what was logged stays. Those with a label, and those that open branches were forked from, stay as they are.
            By default all do.
        all: Remove every layer that no process uses now, those that branches lie over too.
        dry_run: Only tell what would go.
        common: Options of every command.
    """
    unused_s = 0.0 if all else seconds(unused)
    closed_s, effects_s = seconds(closed), seconds(effects)
    home = state_home()
    prepare_home(home)
    with standing() as here:
        ended = here.collect(closed_s, unused_s, effects_s, worlds=snapshots, dry=dry_run)
        keep = [] if all else sorted(here.layers())
    with BuildDisplay() as display:
        layers = collect_layers(home, unused_s=unused_s, keep=keep, dry=dry_run, progress=display)
    facts = asdict(layers)
    facts |= {"branches": ended.branches, "snapshots": ended.snapshots, "deltas": ended.resources}
    facts["effects"] = ended.effects
    if common.json:
        print_json({**facts, "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {short(branch)}" for branch in ended.branches]
    if ended.snapshots or ended.resources:
        points = counted(ended.snapshots, "snapshot", "snapshots")
        lines.append(f"{verb} {points}, {counted(len(ended.resources), 'layer', 'layers')} of branches")
    if ended.effects:
        lines.append(f"{verb} {counted(ended.effects, 'effect', 'effects')} from the ledger")
    lines += [f"{verb} {layer}" for layer in facts["layers"]]
    lines += [f"swept {name}" for name in facts["swept"]]
    lines.append(
        f"{verb} {len(facts['layers'])} layers, {size(facts['freed_bytes'])}; {facts['kept']} layers are in use"
    )
    print_value("\n".join(lines))
