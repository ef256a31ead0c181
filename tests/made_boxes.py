"""Boxes made from plain data, so that the same definition can be made again, here or in another process.

Run as a program it reads a list of specifications as JSON and prints their digests.
"""

import json
import sys
from typing import Any

from kibo import Allow, Box, Deny, Env, Limits, action


def make(spec: dict[str, Any]) -> Box:
    """Makes a box of a fresh class, as `spec` says."""
    body: dict[str, Any] = {
        "__doc__": spec.get("skill") or None,
        "__module__": __name__,
        "__annotations__": {"value": "object"} if "value" in spec else {},
        "env": Env(
            apt=spec.get("apt", []),
            variables=spec.get("variables", {}),
            limits=Limits(memory_bytes=spec.get("memory_bytes")),
        ),
        "egress": [
            *(Allow(host, methods=spec.get("methods", [])) for host in spec.get("hosts", [])),
            *(Deny(host) for host in spec.get("denied", [])),
        ],
    }
    for name, constant in spec.get("actions", {}).items():
        body[name] = action(_function(name, constant))
    cls = type(spec.get("name", "Made"), (Box,), body)
    return cls(value=spec["value"]) if "value" in spec else cls()


def _function(name: str, constant: Any) -> Any:
    """A function whose bytecode, constants, globals and default all depend on the constant."""
    space: dict[str, Any] = {"__name__": __name__, "USED": constant, "UNUSED": object()}
    source = f"""
def {name}(self, given={constant!r}):
    seen = lambda: (USED, {constant!r})
    return seen(), given in {{1, 'a', {constant!r}}}
"""
    exec(compile(source, f"<{id(space)}>", "exec"), space)
    return space[name]


if __name__ == "__main__":
    print(json.dumps([make(spec).digest for spec in json.load(sys.stdin)]))
