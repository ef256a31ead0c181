"""Who is in the team: a planner, workers and a reviewer. What a model would decide is a script here, in `script`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from examples.team.script import CHECKS, DRAFTS, PARTS
from kibo import Box, MayTalk, Message, action, me, on_message

#: What all of them see, and what a fork of their branch has for itself.
WORK = Path("/shared/work")


class Planner(Box):
    """Divides work among others."""

    rights = [MayTalk()]

    @action
    def plan(self, manner: str, workers: list[str]) -> dict[str, str]:
        """Write the plan down, tell each worker how to go about its part, and return which has which."""
        parts = dict(zip(workers, PARTS, strict=True))
        (WORK / "plan.json").write_text(json.dumps({"manner": manner, "parts": parts}, indent=1))
        for worker, part in parts.items():
            me.send_message(worker, f"write {part} in a {manner} manner")
        return parts


class Worker(Box):
    """Writes a part of a program, and its notes beside it."""

    def launch(self) -> None:
        """Begins without a word from anybody."""
        self.told: list[str] = []

    @on_message
    def hear(self, message: Message) -> None:
        """Take note of what somebody says."""
        self.told.append(str(message.body))

    @action
    def write(self, part: str, manner: str) -> Iterator[str]:
        """Write a part; yields how far it is."""
        yield f"reading {json.loads((WORK / 'plan.json').read_text())['manner']} plan"
        (WORK / f"{part}.py").write_text(DRAFTS[manner][part])
        yield f"{part}.py written"
        (WORK / f"{part}-{manner}.md").write_text("\n".join([f"# {part}, {manner}", *self.told, ""]))
        yield "notes written"


class Reviewer(Box):
    """Runs the checks on what others wrote."""

    @action
    def review(self) -> list[str]:
        """Return what is wrong; nothing where all is well."""
        found = []
        for check in CHECKS:
            done = subprocess.run(
                [
                    "/opt/kibo/python/bin/python3",
                    "-c",
                    f"from parse import *; from show import *; assert {check}",
                ],
                check=False,
                cwd=WORK,
                capture_output=True,
                text=True,
                timeout=20,
            )
            if done.returncode:
                found.append(f"not so: {check}")
        return found
