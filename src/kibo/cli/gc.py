"""`kibo gc`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from kibo.cli.options import Common, seconds
from kibo.cli.output import print_json, print_value, size
from kibo.runtime.images.building import do_job
from kibo.runtime.layers.home import prepare_home, state_home


def gc(
    *,
    unused: str = "7d",
    all: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Remove the layers that no running process uses and no build has asked for lately, and abandoned work.

    Args:
        unused: How long ago a layer must have been used last, such as 12h or 7d.
        all: Remove every layer that no process uses now.
        dry_run: Only tell what would go.
        common: Options of every command.
    """
    unused_s = 0.0 if all else seconds(unused)
    home = state_home()
    prepare_home(home)
    collected: dict[str, Any] = {}

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "collected":
            collected.update(event)

    # In a builder, which has power over the ids that layers' files belong to.
    do_job({"job": "collect", "home": str(home), "unused_s": unused_s, "keep": [], "dry": dry_run}, take)
    facts = {name: collected[name] for name in ("layers", "freed_bytes", "kept", "swept")}
    if common.json:
        print_json({**facts, "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {layer}" for layer in facts["layers"]]
    lines += [f"swept {name}" for name in facts["swept"]]
    lines.append(
        f"{verb} {len(facts['layers'])} layers, {size(facts['freed_bytes'])}; {facts['kept']} layers are in use"
    )
    print_value("\n".join(lines))
