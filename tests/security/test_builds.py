"""What the steps of a build can reach: the install scripts of packages run there, with network."""

from __future__ import annotations

from security.attack import HostProcess


def test_a_step_of_a_build_finds_nothing_of_the_users(host: HostProcess) -> None:
    # Not the environment that the builder was started with, not its interpreter, not the home, not the host's root.
    box = host.spawn("Built")
    assert box.attack("import ast\nresult = ast.literal_eval(read('/var/tmp/found').decode())") == []
