"""Boxes whose traffic tests record, with programs that know nothing of any of this."""

from __future__ import annotations

import kibo
from payer_boxes import Payer, asked


class Watcher(Payer):
    """Looks at the shop when it is launched, and when it goes on."""

    def launch(self) -> None:
        super().launch()
        self.seen = [asked("/launched", data=None)]

    def resume(self) -> None:
        self.seen = [*self.seen, asked("/resumed", data=None)]

    @kibo.action(effect="read")
    def saw(self) -> list[str]:
        """Return what it saw."""
        return self.seen

    @kibo.action(effect="read")
    def ask(self, path: str) -> str:
        """Look at something."""
        return asked(path, data=None)
