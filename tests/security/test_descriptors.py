"""What comes along from the warden: descriptors of the guest, and of commands beside it."""

from __future__ import annotations

from security.attack import HostProcess, Target

LIST = """
import stat
result = []
for name in os.listdir('/proc/self/fd'):
    try:
        entry = os.fstat(int(name))
    except OSError:
        continue  # the listing's own
    link = os.readlink('/proc/self/fd/' + name)
    kinds = ('S_ISREG', 'S_ISDIR', 'S_ISCHR', 'S_ISBLK', 'S_ISFIFO', 'S_ISSOCK')
    kind = [k for k in kinds if getattr(stat, k)(entry.st_mode)]
    result.append([int(name), link, kind[0] if kind else 'other'])
"""


def test_a_command_begins_with_its_three_streams_and_nothing_more(box: Target) -> None:
    found = box.attack(LIST, "command")
    assert [number for number, _, _ in found if number > 2] == []


def test_a_shell_begins_with_its_three_streams_and_nothing_more(box: Target) -> None:
    out, err, status = box.exec(["sh", "-c", "ls /proc/$$/fd"])
    assert status == 0, err
    # Debian's shell keeps its script's descriptor (10) when it reads one; with -c there is none.
    assert set(out.split()) <= {"0", "1", "2"}


def test_the_guest_holds_its_two_sockets_and_its_streams(box: Target) -> None:
    found = box.attack(LIST)
    kinds = {number: kind for number, _, kind in found}
    beyond = {number: link for number, link, _ in found if number > 2}
    assert all(link.startswith("socket:") for link in beyond.values()), found
    assert len(beyond) == 2, found
    assert "S_ISDIR" not in kinds.values()


def test_no_descriptor_is_of_the_kernels_own_kind(box: Target, via: str) -> None:
    links = [link for _, link, _ in box.attack(LIST, via)]
    for word in ("seccomp", "pidfd", "userns", "mnt:", "net:", "user:", "cgroup", "memfd", "/proc", "/sys"):
        assert not [link for link in links if word in link], (word, links)


def test_the_guests_standard_streams_lead_to_its_log_and_nowhere_else(box: Target) -> None:
    streams = {number: link for number, link, _ in box.attack(LIST) if number <= 2}
    assert set(streams.values()) <= {"/", "/dev/null", "/log"}, streams
    device = box.attack("entry = os.fstat(0); result = [os.major(entry.st_rdev), os.minor(entry.st_rdev)]")
    assert device == [1, 3], "standard input is not the null device"
    climbed = box.attack("result = [attempt(os.listdir, '/proc/self/fd/%d/..' % fd) for fd in (0, 1, 2)]")
    assert climbed == ["ENOTDIR"] * 3


def test_a_boxs_log_stream_cannot_be_read_or_rewound_into_another(box: Target, other: Target) -> None:
    other.attack("print('something private', flush=True); result = 0")
    code = """
result = []
for fd in (1, 2):
    for path in ('/proc/self/fd/%d' % fd,):
        try:
            again = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            data = os.read(again, 65536)
        except OSError:
            data = b''
        result.append(data)
"""
    assert not [data for data in box.attack(code) if b"something private" in data]


def test_descriptors_do_not_grow_from_box_to_box(host: HostProcess) -> None:
    counts = []
    for _ in range(5):
        box = host.spawn()
        counts.append(len(box.attack(LIST)))
        box.destroy()
    assert len(set(counts)) == 1


def test_the_terminal_of_the_user_is_not_the_boxs(box: Target, via: str) -> None:
    assert box.attack("result = attempt(os.open, '/dev/tty', os.O_RDWR)", via) in ("ENXIO", "ENOENT")
