"""What a box may ask of Kibo from inside, and how much of it, as data. Without a right nothing answers there."""

from typing import Any

from kibo.model.errors import InvalidDefinition
from kibo.model.limits import (
    DEFAULT_CALL_BRANCHES,
    DEFAULT_CALL_INSTANCES,
    DEFAULT_CALL_MAIL_BYTES,
    DEFAULT_CALLS_PER_S,
    MAX_NAME,
)
from kibo.model.record import Record


class Right(Record):
    """One thing that code in a box may ask for, by ``from kibo import me`` or by ``kibo-box``.

    Any right also lets it ask who it is, and say how far it is.
    """

    @property
    def key(self) -> str:
        """What two rights of one kind are told apart by."""
        return ""


class MayTalk(Right):
    """Lets a box ask who it is, say how far it is, have mail within its branch, read the board, and no more."""


class MayPost(Right):
    """Lets a box write on the board, which all branches of the tree see, and which keeps what an aborted one wrote."""


class MayDelegate(Right):
    """Lets a box have other instances of its branch do any of their actions."""


class MayFork(Right):
    """Lets a box fork, commit, abort and snapshot its own branch, and begin branches of its own."""


class MaySpawn(Right):
    """Lets a box spawn one definition, which it names and does not bring along.

    Args:
        box: What it may spawn: a Box class, whose parameters it gives itself, or a box, with the parameters that has.
        name: What it calls it; by default the class's name.
    """

    box: Any
    name: str = ""

    @property
    def key(self) -> str:
        """The name."""
        return self.name

    def _settle(self) -> None:
        from kibo.box.define import Box
        from kibo.box.sums import Sum

        box = self.box
        is_class = isinstance(box, type) and issubclass(box, Box)
        if not is_class and not isinstance(box, Box):
            raise InvalidDefinition(
                f"MaySpawn({box!r}) names no box", hint="Write MaySpawn(Worker), or MaySpawn(Worker(size=3))."
            )
        if not self.name:
            self._store("name", box.__name__ if is_class else type(box).__name__)
            if isinstance(box, Sum) or box is Box:
                raise InvalidDefinition(
                    f"MaySpawn({box!r}) needs a name",
                    hint='Write MaySpawn(Browser() + Account(), name="shopper").',
                )
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME or not self.name.isprintable():
            raise InvalidDefinition(
                f"what may be spawned cannot be called {self.name!r}",
                hint=f"A word or two, of at most {MAX_NAME} characters.",
            )


class Quota(Record):
    """How much a box may ask for from inside. None leaves a bound at its default (`kibo.model.limits`).

    Args:
        instances: Instances that live because of it at once: those that it spawned, those of its branches, and what
            all of these have spawned in turn.
        branches: Branches that live because of it at once, likewise.
        calls_per_s: Calls in a second, on average; a second's worth may come at once.
        mail_bytes: What is written into messages and onto the board, in all, because of it.
    """

    instances: int | None = None
    branches: int | None = None
    calls_per_s: int | None = None
    mail_bytes: int | None = None

    def _settle(self) -> None:
        for name, value in self.as_dict().items():
            if value is not None and (type(value) is not int or value < (name == "calls_per_s")):
                raise InvalidDefinition(
                    f"Quota({name}={value!r}) must be a whole number",
                    hint="Leave it out for the default; 0 instances or branches are none.",
                    details={"field": name, "value": repr(value)},
                )

    def merged(self, other: "Quota") -> "Quota":
        """Returns the larger of each; a side that says nothing goes along with the other."""
        mine, theirs = self.as_dict(), other.as_dict()
        return Quota(**{name: _larger(mine[name], theirs[name]) for name in mine})

    def inherited(self, own: "Quota") -> "Quota":
        """Returns this as a subclass sees it: what ``own`` sets wins, larger or not."""
        return Quota(**{**self.as_dict(), **{n: v for n, v in own.as_dict().items() if v is not None}})

    def settled(self) -> "Quota":
        """Returns it with the defaults in place of what it leaves open."""
        return Quota(
            DEFAULT_CALL_INSTANCES if self.instances is None else self.instances,
            DEFAULT_CALL_BRANCHES if self.branches is None else self.branches,
            self.calls_per_s or DEFAULT_CALLS_PER_S,
            DEFAULT_CALL_MAIL_BYTES if self.mail_bytes is None else self.mail_bytes,
        )


def _larger(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
