"""Instances that may call out, and what lives because of them: it ends with them, and counts against their quotas."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

from kibo.box.plan import Plan
from kibo.model.errors import Exhausted, InstanceEnded, NotFound


class Tally(NamedTuple):
    """How much lives."""

    instances: int = 0
    branches: int = 0

    def __add__(self, other: Tally) -> Tally:  # type: ignore[override]
        """Both together."""
        return Tally(self.instances + other.instances, self.branches + other.branches)

    def __sub__(self, other: Tally) -> Tally:
        """This without the other."""
        return Tally(self.instances - other.instances, self.branches - other.branches)


class Owned(NamedTuple):
    """Something that lives because of a caller, and ends with it.

    Attributes:
        thing: What it is.
        end: Ends it. Called once, from any thread.
        tally: Counts how much of it lives.
    """

    thing: Any
    end: Callable[[], None]
    tally: Callable[[], Tally]


class Caller:
    """One instance that may call out. Thread-safe.

    Attributes:
        id: The instance's.
        plan: Its definition, with rights and quota.
        face: Refers to the instance as its user holds it.
        asks: Runs a coroutine of its own branch.
        above: The caller because of which it lives; None for what a program outside has made.
        progress: What it said last of how far it is.
    """

    def __init__(self, instance: str, plan: Plan) -> None:
        self.id: Final = instance
        self.plan: Final = plan
        self.face: Callable[[], Any] = _nothing
        self.asks: Callable[[Any], Any] = _nothing
        self.above: Caller | None = None
        self.progress: Any = None
        self._guard = threading.Lock()
        self._owned: dict[str, Owned] = {}
        self._ended = False
        self._below: weakref.WeakSet[Caller] = weakref.WeakSet()
        #: What it is about to own; under the lock of the topmost caller.
        self._coming = Tally()
        self._counting = threading.Lock()
        #: What was written because of it, in bytes; under the same lock.
        self._written = 0
        self._calls_per_s: int = plan.quota.calls_per_s or 0
        self._calls_left = float(self._calls_per_s)
        self._counted = time.monotonic()

    @property
    def instance(self) -> Any:
        """The instance, as its user holds it.

        Raises:
            InstanceEnded: Nobody does any more.
        """
        found = self.face()
        if found is None:
            raise InstanceEnded("the instance has ended: nobody holds it any more", hint="Spawn another one.")
        return found

    # Quotas

    def count_call(self) -> None:
        """Counts one call.

        Raises:
            Exhausted: It makes more of them than its quota allows.
        """
        allowed = self._calls_per_s
        with self._guard:
            now = time.monotonic()
            self._calls_left = min(self._calls_left + (now - self._counted) * allowed, float(allowed))
            self._counted = now
            if self._calls_left >= 1:
                self._calls_left -= 1
                return
        raise Exhausted(
            f"the box makes more than {allowed} calls a second",
            hint="Call less often, or raise Quota(calls_per_s=...) in the Box class.",
            details={"quota": "calls_per_s", "allowed": allowed},
        )

    @contextmanager
    def making(self, *, instances: int = 0, branches: int = 0) -> Iterator[None]:
        """Counts what is about to be made, for as long as it is not its own yet.

        Raises:
            Exhausted: More would live because of it, or because of one above it, than its quota allows.
        """
        wanted = Tally(instances, branches)
        line = list(self._line())
        with line[-1]._counting:
            for caller in line:
                caller._refuse_beyond(wanted)
            self._coming += wanted
        try:
            yield
        finally:
            with line[-1]._counting:
                self._coming -= wanted

    @contextmanager
    def writing(self, size: int) -> Iterator[None]:
        """Counts what is written during a block, which is for good where the block does not raise.

        Args:
            size: Bytes.

        Raises:
            Exhausted: It, or one above it, has written as much as its quota allows.
        """
        line = list(self._line())
        with line[-1]._counting:
            for caller in line:
                allowed: int = caller.plan.quota.mail_bytes or 0
                if caller._written + size > allowed:
                    raise Exhausted(
                        f"a box may write {allowed} bytes of messages, and has written {caller._written}",
                        hint="Write files, and send their names; or raise Quota(mail_bytes=...) in the Box class.",
                        details={
                            "quota": "mail_bytes",
                            "allowed": allowed,
                            "used": caller._written,
                            "asked": size,
                        },
                    )
            for caller in line:
                caller._written += size
        try:
            yield
        except BaseException:
            with line[-1]._counting:
                for caller in line:
                    caller._written -= size
            raise

    def _line(self) -> Iterator[Caller]:
        caller: Caller | None = self
        while caller is not None:
            yield caller
            caller = caller.above

    def _refuse_beyond(self, wanted: Tally) -> None:
        has = self._living()
        for kind, more, used in zip(Tally._fields, wanted, has, strict=True):
            allowed: int = getattr(self.plan.quota, kind)
            if more and used + more > allowed:
                raise Exhausted(
                    f"a box may have {allowed} {kind} at once, and {used} live",
                    hint=f"End some, or raise Quota({kind}=...) in the Box class.",
                    details={"quota": kind, "allowed": allowed, "used": used, "asked": more},
                )

    def _living(self) -> Tally:
        """Counts what lives because of it: asked of what lives, so that no end is ever missed."""
        with self._guard:
            owned, below = list(self._owned.values()), list(self._below)
        total = self._coming
        for each in owned:
            total += each.tally()
        for caller in below:
            total += caller._living()
        return total

    def put_below(self, above: Caller | None) -> None:
        """Notes because of whom it lives; None for nobody."""
        if self.above is not None:
            with self.above._guard:
                self.above._below.discard(self)
        self.above = above
        if above is not None:
            with above._guard:
                above._below.add(self)

    # What is its own

    def own(self, name: str, owned: Owned) -> None:
        """Makes something its own, under a name that means nothing to any other.

        Raises:
            InstanceEnded: The caller has ended meanwhile, and this with it.
        """
        with self._guard:
            if not self._ended:
                self._owned[name] = owned
                return
        owned.end()
        raise InstanceEnded("the box that asked for it has ended", hint="Nothing is left of it.")

    def owned(self, name: str) -> Any:
        """Returns what it calls so.

        Raises:
            NotFound: It has nothing of that name: it ended, or is another's.
        """
        with self._guard:
            found = self._owned.get(name)
        if found is None:
            raise NotFound(
                f"this box has made no {name[:80]!r} that lives",
                hint="Name what it has spawned or begun itself; a fork has nothing of what its origin made.",
            )
        return found.thing

    def disown(self, name: str) -> None:
        """Ends something that it owns. Nothing where it has ended.

        Raises:
            KiboError: As it ends.
        """
        with self._guard:
            found = self._owned.pop(name, None)
        if found is not None:
            found.end()

    @property
    def owns_something(self) -> bool:
        """Whether anything ends with it."""
        return bool(self._owned)

    def end(self) -> None:
        """Ends all that it owns, the newest first."""
        with self._guard:
            self._ended = True
            owned, self._owned = list(self._owned.values()), {}
        with ExitStack() as ending:  # the one after an error is ended, too
            for each in owned:
                ending.callback(each.end)


def _nothing(*_: object) -> None:
    return None
