"""Every test is marked by the folder that it is in: the folder says what it is for.

Long repeats are left out unless they are asked for: ``pytest -m soak tests/fault``.
"""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from running_till import Till, running_till

# No deadline for an example: how long one takes says more of the machine than of the code.
settings.register_profile("kibo", deadline=None, print_blob=True)
settings.load_profile("kibo")

HERE = Path(__file__).parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Many images of containers set it. What the tests start would compile all that it imports, each time anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
#: What a test says that is skipped for want of a tool.
INSTALLED = "make setup installs"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        intent = item.path.relative_to(HERE).parts[0]
        item.add_marker(getattr(pytest.mark, intent))
    long = [item for item in items if item.get_closest_marker("soak")]
    if long and "soak" not in config.option.markexpr:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lets a test fail that is skipped for want of a tool, where CI=true: the step that installs it does not work."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if INSTALLED in reason:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid}: with CI=true nothing is skipped that `make setup` brings: {reason}"
            )
    return report


@pytest.fixture(scope="module")
def till() -> Iterator[Till]:
    """A shop on loopback."""
    with running_till() as running:
        yield running


@pytest.fixture
def shop(till: Till) -> Till:
    """The same, which nobody has paid yet."""
    till.paid.clear()
    return till
