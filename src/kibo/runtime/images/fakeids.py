"""Changes of owner that succeed without effect, for build steps of a user who has one id only.

Package tools give files to ids that do not exist in a namespace of one id, and stop when they cannot. A small seccomp
filter answers those calls with success. Boxes never run under it; only the programs of build steps do.
"""

from __future__ import annotations

import platform
import struct
from typing import Final

from kibo.runtime.seccomp import install

_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_SUCCEED: Final = 0x00050000  # SECCOMP_RET_ERRNO with errno 0: the call returns 0 and did nothing

#: chown, lchown, fchown, fchownat; setuid, setgid, setreuid, setregid, setresuid, setresgid, setgroups, setfsuid,
#: setfsgid. Architectures without the older calls leave them out.
_CALLS: Final = {
    "x86_64": (92, 93, 94, 260, 105, 106, 113, 114, 117, 119, 116, 122, 123),
    "aarch64": (54, 55, 146, 144, 145, 143, 147, 149, 159, 151, 152),
}
_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def program(machine: str) -> bytes:
    """Builds the filter, as an array of ``struct sock_filter``."""
    calls = _CALLS[machine]
    instructions = [
        (_LOAD_WORD, 0, 0, 4),
        (_JUMP_EQUAL, 0, len(calls) + 1, _ARCHITECTURES[machine]),
        (_LOAD_WORD, 0, 0, 0),
    ]
    for index, number in enumerate(calls):
        # Past the remaining comparisons and the return for all others.
        instructions.append((_JUMP_EQUAL, len(calls) - index, 0, number))
    instructions += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _SUCCEED)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def fake_id_changes() -> None:
    """Puts the calling process, and all it starts, under the filter for good."""
    install(program(platform.machine()))
