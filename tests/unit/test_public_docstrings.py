"""What users call says what it takes, returns and raises, or where that is said."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kibo
from kibo import aio
from kibo.branch.branch import Branch
from kibo.branch.mail_faces import BranchBoard, BranchMail, Delegated
from kibo.runtime.commandline import Terminal
from kibo.runtime.instance import Files, Instance, Popen, RunningBox
from kibo.runtime.mailing import Mailbox, Receipt
from kibo.runtime.pool import Pool
from kibo.wiring.sessions import Lease, Profile

FACES = [
    Instance,
    RunningBox,
    Files,
    Popen,
    Terminal,
    Pool,
    Branch,
    Profile,
    Lease,
    Receipt,
    Mailbox,
    BranchMail,
    BranchBoard,
    Delegated,
    kibo.Box,
    kibo.Budget,
    aio.Instance,
    aio.Files,
]
FUNCTIONS = [
    kibo.action,
    kibo.use,
    kibo.on_event,
    kibo.on_message,
    kibo.pool,
    kibo.checkout,
    kibo.explore,
    kibo.note,
    kibo.session,
    aio.spawn,
]
RECORDS = [kibo.Env, kibo.Limits, kibo.Service, kibo.Allow, kibo.Deny, kibo.Secret, kibo.Strategy]


def calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    for function in FUNCTIONS:
        yield function.__name__, function
    for face in FACES:
        for name, member in vars(face).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield f"{face.__module__}.{face.__name__}.{name}", member


@pytest.mark.parametrize(("name", "call"), [*calls()])
def test_a_call_says_what_it_takes(name: str, call: Callable[..., Any]) -> None:
    text = inspect.getdoc(call) or ""
    assert text[:1].isupper(), "it says nothing"
    taken = [parameter for parameter in inspect.signature(call).parameters if parameter != "self"]
    # The asynchronous face has the calls of the plain one, which says it all; its class says so.
    if name.startswith("kibo.aio.") or "see `" in text or "ee `Policy`" in text:
        return
    assert all(parameter in text for parameter in taken), taken
    assert len(taken) < 2 or "Args:" in text


@pytest.mark.parametrize("record", RECORDS)
def test_a_definition_says_what_each_of_its_fields_is(record: type) -> None:
    text = inspect.getdoc(record) or ""
    for field in inspect.get_annotations(record):
        assert f"\n    {field}: " in text or f"    {field} (" in text, field


def test_the_asynchronous_face_says_where_its_calls_are_described() -> None:
    for face in (aio.Instance, aio.Files):
        assert f"kibo.runtime.instance.{face.__name__}" in (face.__doc__ or "")
