"""Every test is marked by the folder that it is in: the folder says what it is for."""

from pathlib import Path

import pytest
from hypothesis import settings

# No deadline for an example: how long one takes says more of the machine than of the code.
settings.register_profile("kibo", deadline=None, print_blob=True)
settings.load_profile("kibo")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        intent = item.path.relative_to(HERE).parts[0]
        item.add_marker(getattr(pytest.mark, intent))
