"""What this host offers boxes, what is missing, and how to get it: for `kibo doctor`, and for refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kibo.model.errors import HostUnsupported
from kibo.runtime import host_checks
from kibo.runtime.host_checks import Check
from kibo.runtime.idmap import choose_map

__all__ = ["Check", "probe", "require_host"]


def probe(home: Path) -> list[Check]:
    """Looks at everything, really trying what can be forbidden. Under 300 ms; leaves nothing behind.

    Args:
        home: The state directory, which need not exist yet.

    Returns:
        Checks in a fixed order, required ones first.
    """
    tried = _try(home)
    checks = [
        *host_checks.namespaces(tried),
        *host_checks.mounts(tried),
        *host_checks.kernel_calls(tried),
        *host_checks.ids(tried),
        *host_checks.limits(),
        *host_checks.machine(home),
    ]
    order = ("required", "recommended", "optional")
    return sorted(checks, key=lambda check: order.index(check.level))


def require_host(home: Path) -> None:
    """Refuses a host on which boxes cannot be.

    Raises:
        HostUnsupported: With each missing thing in ``details["missing"]`` and the first one's remedy as the
        hint.
    """
    missing = [check for check in probe(home) if not check.ok and check.level == "required"]
    if missing:
        names = ", ".join(check.name for check in missing)
        raise HostUnsupported(
            f"this host lacks what every box needs: {names} ({missing[0].found})",
            hint=missing[0].remedy,
            details={"missing": [check.to_dict() for check in missing]},
        )


def _try(home: Path) -> dict[str, Any]:
    """Runs the trials as a program, with an empty folder on the state's file system where one can be made."""
    place = home
    while not place.exists():
        place = place.parent
    folder = ""
    try:
        if os.access(place, os.W_OK | os.X_OK, effective_ids=True):
            folder = tempfile.mkdtemp(prefix=".kibo-probe-", dir=place)
            mapped = choose_map()
            os.chown(folder, mapped.uid_lines[0][1], mapped.gid_lines[0][1])
        source = str(Path(__file__).parents[2])
        program = (
            f"import sys; sys.path.insert(0, {source!r}); from kibo.runtime.host_trials import main; main()"
        )
        command = [sys.executable, "-E", "-S", "-c", program, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            return {
                "failures": {"trials": done.stderr.strip()[-500:] or f"exit {done.returncode}"},
                "landlock": 0,
            }
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    finally:
        if folder:
            work = Path(folder, "w", "work")
            if work.exists():
                # Overlay makes it with no rights at all, so that its owner, unless root, could not remove it.
                work.chmod(0o700)
            shutil.rmtree(folder)
