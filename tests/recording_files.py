"""Recordings that tests make without a gateway."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kibo.effects.recording_file import BEGIN, Question, Recorded, Reply, write_end
from kibo.effects.records import PACK


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=32).digest()


def question(target: bytes = b"/", body: bytes | None = None, **more: Any) -> Question:
    facts: dict[str, Any] = {
        "secure": True,
        "host": "shop.example",
        "port": 443,
        "method": b"GET" if body is None else b"POST",
        "target": target,
        "fields": [(b"host", b"shop.example")],
        "trailers": [],
        "effect": "read" if body is None else "irreversible",
        "body": None if body is None else digest(body),
    }
    return Question(**{**facts, **more})


def exchange(number: int, target: bytes, answer: bytes, body: bytes | None = None) -> Recorded:
    fields = [(b"content-length", b"%d" % len(answer))]
    return Recorded(number, question(target, body), Reply(200, b"OK", fields, [], digest(answer), True))


def packed(index: Any, bodies: Sequence[bytes] = ()) -> bytes:
    """Writes a recording with whatever index."""
    out = Out(BEGIN + b"".join(bodies))
    write_end(out, len(BEGIN) + sum(map(len, bodies)), PACK.encode(index))
    return out.getvalue()


def index(exchanges: Sequence[Any], bodies: Sequence[bytes], name: str = "made") -> list[Any]:
    return [name, 0.0, [(digest(body), len(body)) for body in bodies], list(exchanges)]


def write(path: Path, answers: dict[bytes, bytes], name: str = "made") -> Path:
    """Writes a recording of GETs."""
    bodies = list(dict.fromkeys(answers.values()))
    exchanges = [exchange(at, target, body) for at, (target, body) in enumerate(answers.items(), 1)]
    path.write_bytes(packed(index(exchanges, bodies, name), bodies))
    return path


class Out(io.BytesIO):
    """What a file is to `write_end`."""

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self.write(first)
        self._fd = os.memfd_create("recording")

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)
