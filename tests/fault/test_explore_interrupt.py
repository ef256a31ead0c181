"""Ctrl-C during an exploration, at any moment: no fork is left open and no thread runs."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROUNDS = 40


def test_ctrl_c_at_any_moment_leaves_no_fork_and_no_thread():
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    program = [sys.executable, str(TESTS / "explorer.py"), "interrupt", str(ROUNDS)]
    forks = 0
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for _ in range(ROUNDS):
                assert process.stdout.readline() == "ready\n"
                time.sleep(chance.uniform(0, 0.06))
                process.send_signal(signal.SIGINT)
                said = process.stdout.readline().strip()
                assert said.endswith(", open 0, threads 0"), said
                forks += int(said.split()[1].rstrip(","))
            assert process.wait(20) == 0
        finally:
            process.kill()  # where it has not ended by itself, the test has failed
    assert forks > ROUNDS, "Ctrl-C came before anything was forked"
