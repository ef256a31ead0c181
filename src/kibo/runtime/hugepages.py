"""Memory that is cheap to fork: in huge pages, of which a fork copies one entry each instead of 512.

A fork copies the page table of all memory that is not a file's, and its end takes that down again: for the 12 MB of
an interpreter that is half a millisecond, for 1 GB of live state 40 ms; in huge pages it is next to nothing. The
interpreter's code, being a file's, is not copied but faulted in by each fork anew, in some forty steps; as huge pages
of memory it is simply there. Where a fork writes, the kernel goes back to small pages, for that fork alone.

All of this changes speed only: where the kernel or the layout does not allow it, memory stays as it was. Source:
madvise(2) MADV_COLLAPSE (Linux 6.1), mremap(2). Only for a process with one thread.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

#: What the collapsed objects of the runtime and of a small box need; CPython asks for a megabyte at a time.
RESERVED_BYTES: Final = 8 << 20
_MADV_HUGEPAGE: Final = 14
_MADV_COLLAPSE: Final = 25
_MREMAP_INTO: Final = 0x1 | 0x2  # MREMAP_MAYMOVE | MREMAP_FIXED
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_NOWHERE: Final = ctypes.c_void_p(-1).value
#: With its head an object of 512 bytes, the largest that does not come from the C library.
_SMALL: Final = 470

_libc: Final = ctypes.CDLL(None)
_size, _address, _int = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
_libc.mmap.argtypes = [_address, _size, _int, _int, _int, ctypes.c_long]
_libc.mremap.argtypes = [_address, _size, _size, _int, _address]
_libc.mprotect.argtypes = [_address, _size, _int]
_libc.madvise.argtypes = [_address, _size, _int]
_libc.munmap.argtypes = [_address, _size]
_libc.sbrk.argtypes = [ctypes.c_ssize_t]
_libc.mmap.restype = _libc.mremap.restype = _libc.sbrk.restype = ctypes.c_void_p


def _huge_size() -> int:
    """Reads the size of a huge page; 0 where the kernel has none, or such as are too large to be of use (arm64)."""
    try:
        size = int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0
    return size if size <= RESERVED_BYTES // 2 else 0


#: Read once, while the host's /sys is there.
_HUGE: Final = _huge_size()


class _Region(NamedTuple):
    start: int
    end: int
    rights: str
    file: str
    name: str


def _regions() -> Iterator[_Region]:
    """Reads the caller's memory regions, proc_pid_maps(5)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, file, *name = line.split(maxsplit=5)
        start, end = (int(edge, 16) for edge in span.split("-"))
        yield _Region(start, end, rights, file, name[0] if name else "")


def reserve() -> list[bytes]:
    """Has Python ask for its memory now, in one piece that huge pages fit into. To be called before all else.

    It would else come a megabyte at a time, in between the libraries that are loaded meanwhile.

    Returns:
        One small object in each part of it, to be kept, so that none is given back.
    """
    if not _HUGE:
        return []
    # The kernel gives out addresses downwards: what lies between here and the next huge page's edge is filled.
    probe = _libc.mmap(None, _HUGE // 2, 0, _PRIVATE, -1, 0)
    if probe == _NOWHERE:
        return []
    _libc.munmap(probe, _HUGE // 2)
    excess = (probe + _HUGE // 2) % _HUGE
    filler = _libc.mmap(None, excess, 0, _PRIVATE, -1, 0) if excess else _NOWHERE
    blocks = [bytes(_SMALL) for _ in range(RESERVED_BYTES // 512)]
    if filler != _NOWHERE:
        _libc.munmap(filler, excess)
    return blocks[:: (1 << 18) // 512]


def collapse_heap() -> None:
    """Moves the caller's memory into huge pages wherever one fits. A gigabyte takes about 0.4 s."""
    for region in list(_regions()):
        if region.rights == "rw-p" and region.file == "0" and region.name in ("", "[heap]"):
            low, high = _huge_within(region.start, region.end)
            if low < high:
                _libc.madvise(low, high - low, _MADV_COLLAPSE)


def collapse_code() -> None:
    """Replaces the file-backed code of large libraries by copies in huge pages. x86-64 only: no caches to flush.

    A huge page has one set of rights, so the constants between the code become executable too, as do those of small
    libraries, to be one region with it; they are as read-only as before, and at no moment is anything both writable
    and executable.
    """
    from kibo.runtime.kernel import MACHINE

    if MACHINE != "x86_64":
        return
    for start, end in list(_libraries()):
        low, high = _huge_within(start, end)
        if low < high:
            _replace(low, high - low)
        else:
            # One region in place of three: a fork copies the description of each.
            _libc.mprotect(start, end - start, mmap.PROT_READ | mmap.PROT_EXEC)


def _libraries() -> Iterator[tuple[int, int]]:
    """Finds what each file has mapped in one piece and read-only, code among it."""
    start = end = 0
    file, code = "", False
    for region in _regions():
        fixed = region.rights in ("r--p", "r-xp") and region.file != "0"
        if fixed and region.start == end and region.file == file:
            end, code = region.end, code or "x" in region.rights
            continue
        if code:
            yield start, end
        start, end, file, code = region.start, region.end, region.file, fixed and "x" in region.rights
    if code:
        yield start, end


def _huge_within(start: int, end: int) -> tuple[int, int]:
    """Narrows a span to whole huge pages; empty where there is none."""
    if not _HUGE:
        return 0, 0
    low = -(-start // _HUGE) * _HUGE
    return low, max(low, end // _HUGE * _HUGE)


def _replace(start: int, length: int) -> None:
    """Puts a copy in huge pages where a read-only span is. The code that runs meanwhile may lie in it.

    The last step is one system call, before which the old and after which the new is there.
    """
    spare = _libc.mmap(None, length + _HUGE, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE, -1, 0)
    if spare == _NOWHERE:
        return
    copy = -(-spare // _HUGE) * _HUGE
    # Huge from the first touch, which saves the collapse below its work.
    _libc.madvise(copy, length, _MADV_HUGEPAGE)
    ctypes.memmove(copy, start, length)
    rights = mmap.PROT_READ | mmap.PROT_EXEC
    if _libc.madvise(copy, length, _MADV_COLLAPSE) == 0 and _libc.mprotect(copy, length, rights) == 0:
        _libc.mremap(copy, length, length, _MREMAP_INTO, start)
    # What is left of the spare memory; a span that was moved away is no longer there to unmap.
    _libc.munmap(spare, length + _HUGE)
