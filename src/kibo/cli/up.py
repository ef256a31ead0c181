"""`kibo up`."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

from cyclopts import Parameter

from kibo.cli.options import Common
from kibo.cli.output import print_json, print_value
from kibo.model.errors import InvalidInput
from kibo.runtime.layers.home import state_home
from kibo.wiring import runtime


def up(
    *,
    metrics: str | None = None,
    systemd: Annotated[bool, Parameter(negative="")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Carry runs out and have what is wanted happen, until this process is ended; see `kibo apply -f`.

    Where another process carries runs out already, this one takes over once that has ended. SIGTERM and Ctrl-C end it;
    what it runs then is placed anew by whoever carries runs out next.

    Args:
        metrics: Serve metrics for Prometheus at this address: 127.0.0.1:9464, or a port of it; 0 for any that is free.
        systemd: Only print a unit by which systemd has it running for this user: write it to
            ~/.config/systemd/user/kibo.service, then `systemctl --user enable --now kibo`, and `loginctl enable-linger`
            to have it run while nobody is signed in.
        common: Options of every command.
    """
    if systemd:
        print_value(_unit())
        return
    url = None if metrics is None else _serve_metrics(metrics)
    scheduling = runtime().scheduling()
    scheduling.carry_out()
    upkeep = scheduling.keep_up()
    if common.json:
        print_json({"up": True, "metrics": url})
    else:
        print_value(
            "carrying runs out; Ctrl-C ends it" + ("" if url is None else f"\nmetrics are at {url}/metrics")
        )
    upkeep.wait()  # until a signal ends it: SIGTERM as Ctrl-C does


def _serve_metrics(where: str) -> str:
    from kibo.serve.scrapes import address  # late: few ask for it

    host, port = address(where)
    try:
        from kibo.wiring.metrics import serve
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise InvalidInput(
            "metrics need prometheus_client, which is not installed", hint="pip install 'kibo[metrics]'"
        ) from None
    return serve(runtime(), host, port).url


def _unit() -> str:
    # The interpreter rather than the script: which of several `kibo` is depends on a PATH that systemd has not.
    program = _quoted(sys.executable, "-m", "kibo.cli", "up")
    return _UNIT.format(program=program, home=_quoted(f"KIBO_HOME={state_home()}"))


def _quoted(*words: str) -> str:
    """Quotes words as systemd reads them, systemd.syntax(7): like a shell, but for `%` and `$`."""
    return " ".join(shlex.quote(word.replace("%", "%%").replace("$", "$$")) for word in words)


#: Runs are resumed by whoever comes next, so that it may be ended at any time. `Delegate` lets limits be enforced.
_UNIT = """\
[Unit]
Description=Kibo: carries runs out, and has what is wanted happen
StartLimitIntervalSec=0

[Service]
Type=exec
Environment={home}
ExecStart={program}
Restart=always
RestartSec=2
SuccessExitStatus=143
KillMode=mixed
TimeoutStopSec=30
Delegate=yes

[Install]
WantedBy=default.target
"""
