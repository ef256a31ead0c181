"""`kibo doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_table
from kibo.cli.styles import bold
from kibo.effects.values.finding import Values
from kibo.model.errors import KiboError
from kibo.runtime.host import Check, probe
from kibo.runtime.layers.home import state_home
from kibo.store.database import Store
from kibo.wiring import settings


def doctor(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Tell what this host offers boxes, what is missing, and how to get it. Exits with 1 where boxes cannot be.

    Args:
        common: Options of every command.
    """
    home = state_home()
    checks = [*probe(home), _history(home), *_secrets(home)]
    missing = [check for check in checks if not check.ok]
    fatal = [check for check in missing if check.level == "required"]
    if common.json:
        print_json({"ok": not fatal, "home": str(home), "checks": [check.to_dict() for check in checks]})
        return 1 if fatal else 0
    rows = [("ok" if check.ok else "MISSING", check.level, check.name, check.found) for check in checks]
    print_table(("", "LEVEL", "WHAT", "FOUND"), rows)
    for check in missing:
        sys.stdout.write(f"\n{bold(check.name)} ({check.level}): for {check.needed_for}\n  {check.remedy}\n")
    verdict = "boxes cannot run here" if fatal else "boxes run here"
    also = f"; {len(missing)} of {len(checks)} things are missing" if missing else "; nothing is missing"
    sys.stdout.write(f"\n{bold(verdict)}{also}. The state directory is {home}.\n")
    return 1 if fatal else 0


def _history(home: Path) -> Check:
    """Looks whether the database of the history can be reached, and says where it is, without its password."""
    use = "what branches, effects and sessions were and are"
    try:
        set_so = settings.read(home)
        found = Store.reach(set_so.store) + (f", by {set_so.said_in}" if set_so.said_in else "")
    except KiboError as error:
        return Check("history", False, "recommended", use, error.message, error.hint)
    return Check("history", True, "recommended", use, found, "")


def _secrets(home: Path) -> Iterator[Check]:
    """Looks whether each secret of `kibo.toml` has a value where that says, and tells nothing of it."""
    try:
        set_so = settings.read(home).secrets
    except KiboError:
        return  # the line before says so
    values = Values(os.environ, set_so)
    for name, source in set_so.items():
        what, use = f"secret {name}", "boxes that declare it"
        try:
            values.find(name)
        except KiboError as error:
            yield Check(what, False, "recommended", use, error.message, error.hint)
        else:
            found = "in the environment, which counts first" if os.environ.get(name) else source
            yield Check(what, True, "recommended", use, found, "")
