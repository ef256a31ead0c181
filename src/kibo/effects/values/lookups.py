"""Values of secrets as an event loop asks for them: side by side, and nobody waits for one for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from kibo.effects.values.finding import Values
from kibo.model.errors import InvalidInput, SecretUnavailable

#: Seconds that whoever needs a value waits for it, and what comes behind with it.
WITHIN_S: Final = 2.0
#: A value, or why there is none.
Found = str | InvalidInput | SecretUnavailable


class Lookups:
    """Looks up values, each once at a time, in threads that end with the process: a keyring may wait for its user, and
    Vault for a network, for longer than the gateway lives.

    Args:
        values: Where they are.
    """

    def __init__(self, values: Values) -> None:
        self._values = values
        self._asked: dict[str, asyncio.Future[Found]] = {}

    async def find(self, names: Collection[str]) -> dict[str, Found]:
        """Looks up values by the names of secrets, for up to `WITHIN_S`.

        A look-up that takes longer goes on, and whoever asks again meanwhile waits for the same one.

        Returns:
            What each came to; `SecretUnavailable` where that takes longer.
        """
        asked = {name: self._asked.get(name) or self._ask(name) for name in names}
        if asked:
            await asyncio.wait(asked.values(), timeout=WITHIN_S)
        return {name: each.result() if each.done() else _late(name) for name, each in asked.items()}

    def _ask(self, name: str) -> asyncio.Future[Found]:
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[Found] = loop.create_future()

        def answer(found: Found) -> None:
            del self._asked[name]
            asked.set_result(found)

        def work() -> None:
            found: Found
            try:
                found = self._values.find(name)
            except (InvalidInput, SecretUnavailable) as error:
                found = error
            except Exception as error:  # noqa: BLE001 - of whatever library has the keyring: it gives no value now
                found = SecretUnavailable(f"the secret {name} cannot be looked up: {error!r}")
            with suppress(RuntimeError):  # the loop has ended, and nobody asks any more
                loop.call_soon_threadsafe(answer, found)

        self._asked[name] = asked
        threading.Thread(target=work, name=f"kibo-value-{name}", daemon=True).start()
        return asked


def _late(name: str) -> SecretUnavailable:
    return SecretUnavailable(f"the look-up of the secret {name} takes its time")
