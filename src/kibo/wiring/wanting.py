"""From a file to what is wanted: boxes found, actions and arguments checked, before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kibo.box.define import Box
from kibo.box.plan import action_of
from kibo.model.durations import seconds
from kibo.model.errors import KiboError
from kibo.model.limits import DEFAULT_ACTION_S
from kibo.schedule.manifest import Document, Path, check_fields, nearest, read_documents
from kibo.schedule.policy import Policy, Retry
from kibo.schedule.request import Request
from kibo.schedule.wanted import Trigger
from kibo.schedule.work import read_work
from kibo.wiring.runs import work_of

_DURATION: Final = (str, int, float)
#: The fields of what a run is to be, as `kibo submit` has them.
_RUN: Final[Mapping[str, type | tuple[type, ...]]] = {
    "box": str, "action": str, "with": dict, "message": str, "timeout": _DURATION, "within": _DURATION,
    "retry": int, "priority": int, "tenant": str, "subject": str, "double": str,
}  # fmt: skip
_TRIGGER: Final[Mapping[str, type | tuple[type, ...]]] = {
    "kind": str, "name": str, "cron": str, "zone": str, "late": _DURATION, "topic": str, "branch": str,
    "run": dict,
}  # fmt: skip


def read_manifest(text: str, source: str, load: Callable[[str], Box]) -> list[Trigger]:
    """Reads all that a file wants.

    Args:
        text: The file.
        source: What errors call it.
        load: Finds a box by what a user calls it.

    Raises:
        ManifestInvalid: Something in it is not well formed, or names what is not there: says where it stands.
    """
    found: dict[str, Trigger] = {}
    for document in read_documents(text, source):
        one = _KINDS[_kind(document)](document, load)
        if one.name in found:
            document.refuse(("name",), f"{one.name} is wanted twice", "Give each thing a name of its own.")
        found[one.name] = one
    return list(found.values())


def _kind(document: Document) -> str:
    found = document.value.get("kind")
    if not isinstance(found, str):
        document.refuse(("kind",), "a document has no kind", f"Give kind: {' or '.join(_KINDS)}.")
    if found not in _KINDS:
        document.refuse(("kind",), f"unknown kind {found!r}", nearest(found, _KINDS))
    return found


def _trigger(document: Document, load: Callable[[str], Box]) -> Trigger:
    check_fields(document, (), document.value, _TRIGGER)
    given = document.value
    _need(document, (), given, "name", "run")
    options = {name: given[name] for name in ("cron", "zone", "topic", "branch") if name in given}
    late_s = _seconds(document, ("late",), given.get("late"))
    run = given["run"]
    check_fields(document, ("run",), run, _RUN)
    if "message" in run and "topic" not in given:
        document.refuse(
            ("run", "message"), "only a topic has messages", "Leave message: out, or give topic:."
        )
    request = _request(document, run, load)
    try:
        return Trigger(given["name"], request, late_s=late_s, message=run.get("message", ""), **options)
    except KiboError as error:
        blamed = next((name for name in (*options, "late", "name") if _blames(error, name, given)), "name")
        document.refuse_as((blamed,), error)


def _request(document: Document, run: Mapping[str, Any], load: Callable[[str], Box]) -> Request:
    _need(document, ("run",), run, "box", "action")
    later = [run["message"]] if "message" in run else []
    timeout_s, within_s = (_seconds(document, ("run", name), run.get(name)) for name in ("timeout", "within"))
    try:
        box = load(run["box"])
    except KiboError as error:
        document.refuse_as(("run", "box"), error)
    try:
        spec = action_of(box, run["action"])
    except KiboError as error:
        document.refuse_as(("run", "action"), error)
    names = [slot.name for slot in spec.parameters]
    if later and later[0] not in names:
        document.refuse(
            ("run", "message"),
            f"{spec.name}() has no parameter {later[0]!r}",
            nearest(later[0], dict.fromkeys(names)),
        )
    try:
        _, work = work_of(box, run["action"], (), run.get("with", {}), later)
    except KiboError as error:
        document.refuse_as(("run", "with", str(error.details.get("parameter", ""))), error)
    if not read_work("", work).parts:
        document.refuse(
            ("run", "box"),
            f"no other process would find {run['box']!r}",
            "Define its class at the top of a module.",
        )
    try:
        retry = Retry(run["retry"]) if run.get("retry") else None
    except KiboError as error:
        document.refuse_as(("run", "retry"), error)
    options = {name: run[name] for name in ("priority", "tenant", "subject", "double") if name in run}
    try:
        policy = Policy(
            timeout_s=DEFAULT_ACTION_S if timeout_s is None else timeout_s,
            total_timeout_s=within_s,
            retry=retry,
        )
        return Request(work, policy, near=(box.digest,), **options)
    except KiboError as error:
        blamed = next((name for name in run if _blames(error, name, run)), "")
        document.refuse_as(("run", blamed), error)


def _blames(error: KiboError, name: str, given: Mapping[str, Any]) -> bool:
    """Whether an error is about a field: it names that, or what stands there."""
    return name in given and (error.message.startswith(name) or repr(given[name]) in error.message)


def _seconds(document: Document, path: Path, given: object) -> float | None:
    if given is None:
        return None
    try:
        return seconds(str(given))
    except KiboError as error:
        document.refuse_as(path, error)


def _need(document: Document, path: Path, given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name not in given:
            document.refuse(path, f"{name}: is missing", f"Give {name}: here.")


_KINDS: Final[Mapping[str, Callable[[Document, Callable[[str], Box]], Trigger]]] = {"Trigger": _trigger}
