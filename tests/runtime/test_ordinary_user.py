"""The behaviour of the runtime for a user with no rights: the same tests, run by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ordinary_user
from own_runtimes import BUILD_PLAIN, PLAIN
from warm import Warm

#: In no one's use: packages' users end at 999, people's begin at 1000, nobody is 65534.
ORDINARY = 64_322

#: These become an ordinary user by themselves; so do those of tests/security that attack from a box, one by one.
NEED_ROOT = {
    "test_ordinary_user.py",
    "test_range_of_ids.py",
    "test_builds_as_user.py",
    "test_disks.py",
    "test_workspace_disks.py",
    "test_effects_disks.py",
    "test_effects_runs.py",
}
#: Those that ask nothing of the kernel; and whose database servers want a user that has a name.
OF_STORES = {
    "contract/test_comparing.py",
    "contract/test_context.py",
    "contract/test_effects_approvals.py",
    "contract/test_effects_calls.py",
    "contract/test_effects_ledger.py",
    "contract/test_effects_retention.py",
    "contract/test_mail.py",
    "contract/test_schedule_store.py",
    "contract/test_secret_stores.py",
    "contract/test_sessions.py",
    "contract/test_store.py",
    "contract/test_store_history.py",
    "fault/test_belonging.py",
    "fault/test_context_crashes.py",
    "fault/test_effects_retention.py",
    "fault/test_dispatcher.py",
    "fault/test_history_crashes.py",
    "fault/test_owners.py",
    "runtime/test_history_elsewhere.py",
}
#: What is asked of the gateway on loopback: it is a process like any other, with no namespace and no right of its own.
#: Its start, its files and its service to boxes are tried for this user by contract/test_forwarder.py and in runtime/.
OF_THE_GATEWAY = {
    "contract/test_gateway_approvals.py",
    "contract/test_gateway_effects.py",
    "contract/test_gateway_http2.py",
    "contract/test_recordings.py",
    "contract/test_redacting.py",
}
MODULES = [
    f"{folder}/{path.name}"
    for folder in ("runtime", "fault", "contract")
    for path in sorted((ordinary_user.CHECKOUT / "tests" / folder).glob("test_*.py"))
    if path.name not in NEED_ROOT and f"{folder}/{path.name}" not in OF_STORES | OF_THE_GATEWAY
]
#: Of long modules, the tests whose outcome can depend on the user.
ONLY = {
    "runtime/test_older_kernels.py": "same_world or test_spawn or test_fork or test_namespaces",
    "fault/test_apply.py": "not never_lost",
    "fault/test_branch_crashes.py": "commit or apply or deep_fork or close",
    "fault/test_effects_crashes.py": "commit.recorded or effect.sending or undo.owed",
    "fault/test_leaks.py": "spawn or build or exec or seen",
}
#: Those of tests/security that have no box, and are about files.
MODULES += [f"security/test_{name}.py" for name in ("applies", "archives", "journals")]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with ordinary_user.place_of(ORDINARY, ORDINARY) as path:
        built = ordinary_user.run(
            path, ORDINARY, ORDINARY, ["-c", BUILD_PLAIN], KIBO_HOME=f"{path}/home/plain"
        )
        assert built.returncode == 0, built.stdout
        yield path


@pytest.fixture(scope="module")
def user(place: Path) -> Iterator[Warm]:
    with ordinary_user.warm(place, ORDINARY, ORDINARY) as process:
        yield process


@pytest.mark.timeout(ordinary_user.MODULE_S + 30)
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.skipif(
    not ordinary_user.same_version(), reason="the system's Python is of another version than the tests'"
)
@pytest.mark.parametrize("module", MODULES)
def test_an_ordinary_user_sees_the_same(user: Warm, place: Path, module: str) -> None:
    only, layers = ONLY.get(module, ""), {PLAIN: f"{place}/home/plain"}
    ordinary_user.run_tests(user, place, module, only, **layers)
