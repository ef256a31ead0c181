"""Every database that a store can be, real, for the suites that run over all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import databases
from kibo.branch.history import History
from kibo.store.database import Store


@pytest.fixture(scope="session", params=databases.KINDS)
def database_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with databases.server(request.param) as url:
        yield url


@pytest.fixture
def url(database_server: str) -> str:
    """A new store, which is not open."""
    return databases.new_store(database_server)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def history(store: Store) -> History:
    return History(store)
