"""`kibo submit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from kibo.box.plan import action_of
from kibo.cli.calls import read_arguments
from kibo.cli.options import Common
from kibo.cli.output import jsonable, print_json, print_value
from kibo.cli.references import load_box
from kibo.model.durations import seconds
from kibo.model.limits import DEFAULT_ACTION_S
from kibo.schedule.policy import Policy, Retry
from kibo.wiring import runs


def submit(
    box: str,
    action: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    wait: Annotated[bool, Parameter(negative="")] = False,
    retry: int = 0,
    timeout: str | None = None,
    within: str | None = None,
    name: str = "",
    priority: int = 0,
    tenant: str = "default",
    key: str | None = None,
    subject: str | None = None,
    after: Annotated[Sequence[str], Parameter(negative="")] = (),
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Have an action done as a run, which outlives this command, and print the run's id.

    Whichever process of the state directory carries runs out does it: `kibo up`, a program that has submitted some, or
    with --wait this command. Options come before the box.

    Args:
        box: Where the box is defined: module:Name, file.py:Name, or a sum of such.
        action: The action's name.
        arguments: name=value, plain values by position, or a JSON object or list.
        wait: Carry it out here if nobody else does, wait for its end, and print its result.
        retry: How often it is tried again where it fails.
        timeout: How long the action may take, each time it is tried: 90, 90s, 1.5m, 2h.
        within: How long all of it may take, from now on.
        name: What to call it.
        priority: From -100 to 100; higher ones start earlier.
        tenant: Whose it is: tenants share the machine.
        key: Names this one intent: submitted again with the same key, it is the same run.
        subject: What it is about: runs of one subject are one after another.
        after: A run that must have succeeded before it; may be given several times.
        common: Options of every command.
    """
    definition = load_box(box)
    positional, named = read_arguments(action_of(definition, action), arguments)
    policy = Policy(
        timeout_s=DEFAULT_ACTION_S if timeout is None else seconds(timeout),
        total_timeout_s=None if within is None else seconds(within),
        retry=Retry(retry) if retry else None,
    )
    made = runs.submit_call(
        definition, action, positional, named,
        policy=policy, name=name, priority=priority, tenant=tenant, key=key, subject=subject,
        after=[runs.get_run(each) for each in after], carry=wait,
    )  # fmt: skip
    if not wait:
        print_json({"run": made.id}) if common.json else print_value(str(made.id))
        return
    result = made.result()
    if common.json:
        print_json({"run": made.id, "result": jsonable(result)})
    else:
        print_value(result)
