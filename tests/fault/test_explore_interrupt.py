"""Ctrl-C during an exploration, at any moment: no fork is left open and no thread runs."""

from __future__ import annotations

import os
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


def test_ctrl_c_in_real_boxes_leaves_no_fork_no_instance_and_no_thread():
    rounds = 8
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    program = [sys.executable, str(TESTS / "fault/explore_user.py"), str(rounds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for number in range(rounds):
                assert process.stdout.readline() == "ready\n"
                time.sleep(chance.uniform(0, 0.3))
                process.send_signal(signal.SIGINT)
                said = process.stdout.readline().strip()
                kept, _, made = said.rpartition(", made ")
                assert kept == f"forks 0, instances 0, threads 0, answers {number}", said
            assert process.wait(20) == 0
        finally:
            process.kill()  # where it has not ended by itself, the test has failed
    assert int(made) > rounds, "Ctrl-C came before anything was forked"
