"""When a cron expression is due, in a time zone. Pure but for the zones of this machine.

As Debian's cron has it: where the clock is set forward, what was due in the hour that is left out is due right after
it, once; where it is set back, what names its hours is due the first time alone, and what is due every hour or oftener
(its minute or its hour begins with `*`) goes by the time that passes. A tick is named by its second since 1970.

Where clocks are set by half an hour, which Lord Howe Island alone does, `after` may leave out one that `latest` knows
in that night: whoever looks now and then starts it late.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from kibo.model.errors import InvalidInput
from kibo.model.limits import MAX_NAME

_FIELDS: Final = 5


class Schedule:
    """One cron expression.

    Args:
        cron: Minute, hour, day of the month, month and day of the week, such as ``"0 6 * * mon-fri"``.
        zone: The time zone by its name in the IANA database, such as ``"Europe/Berlin"``.

    Raises:
        InvalidInput: One of them is none. That it is never due is told by `after`.
    """

    def __init__(self, cron: str, zone: str = "UTC") -> None:
        self._cron: Final = cron
        self._zone: Final = zone_of(zone)
        if len(cron) > MAX_NAME or len(cron.split()) != _FIELDS:
            raise _no_schedule(cron, "it has not five fields")
        try:
            CronSim(cron, datetime.fromtimestamp(0, self._zone))
        except (CronSimError, ValueError) as error:
            raise _no_schedule(cron, str(error)) from None

    def after(self, at_s: float) -> int | None:
        """Returns the first tick after a time; None where there is none in 50 years."""
        return next((tick for tick in self._from(at_s) if tick > at_s), None)

    def latest(self, at_s: float) -> int | None:
        """Returns the last tick up to a time, that time included; None where there was none in 50 years.

        As cheap after a year as after a minute.
        """
        back = CronSim(self._cron, datetime.fromtimestamp(int(at_s) + 1, self._zone), reverse=True)
        known = next(back, None)
        if known is None:
            return None
        found = int(known.timestamp())
        # Of the hour that comes twice the library knows one when it goes back. Going on, it knows both.
        for tick in self._from(found):
            if tick > at_s:
                break
            found = max(found, tick)
        return found

    def moment(self, tick: int) -> datetime:
        """Returns a tick as it is told where the schedule is."""
        return datetime.fromtimestamp(tick, self._zone)

    def _from(self, at_s: float) -> Iterator[int]:
        """Yields ticks in order, some of which may lie before, and several be the same."""
        for tick in CronSim(self._cron, datetime.fromtimestamp(int(at_s), self._zone)):
            yield int(tick.timestamp())


def zone_of(name: str) -> tzinfo:
    """Returns a time zone.

    Raises:
        InvalidInput: This machine does not know it.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError) as error:  # `ZoneInfoNotFoundError` is a `KeyError`
        raise _no_zone(name) from error
    except KeyError:
        raise _no_zone(name) from None


def _no_zone(name: str) -> InvalidInput:
    return InvalidInput(
        f"this machine knows no time zone {name[:80]!r}",
        hint="Name one as Europe/Berlin; where there is none but UTC, `pip install tzdata` brings them.",
    )


def _no_schedule(cron: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{cron[:80]!r} is no schedule: {why}",
        hint='Write minute, hour, day, month and weekday, as in "0 6 * * mon-fri".',
    )
