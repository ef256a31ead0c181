"""Reading what belongs to the host: its home, its environment, its memory, its processes' roots."""

from __future__ import annotations

from pathlib import Path

from security.attack import HostProcess, Target

# Written in two halves, so that the attack's own text is not what it finds.
FIND_IN_MEMORY = """
import re
first, second = {first!r}, {second!r}
found = []
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        begin, end = (int(part, 16) for part in line.split()[0].split('-'))
        if line.split()[1][0] != 'r' or line.rstrip().endswith(('[vvar]', '[vsyscall]', '[vvar_vclock]')):
            continue
        try:
            memory.seek(begin)
            data = memory.read(end - begin)
        except (OSError, OverflowError, ValueError):
            continue
        at = data.find(first.encode())
        while at >= 0:
            if data[at + len(first):at + len(first) + len(second)] == second.encode():
                found.append(line.strip())
            at = data.find(first.encode(), at + 1)
        del data
result = found
"""


def test_the_users_home_is_not_there(host: HostProcess, box: Target, via: str, as_user: Path) -> None:
    paths = [str(as_user / "home" / ".secret"), str(as_user), "/root", "/home/root"]
    answers = box.attack(f"result = [attempt(read, path) for path in {paths}]", via)
    assert answers[:2] == ["ENOENT", "ENOENT"]
    assert all(answer in ("ENOENT", "EACCES", "EISDIR") for answer in answers)


def test_no_file_of_the_box_holds_the_users_secret(host: HostProcess, box: Target, as_user: Path) -> None:
    code = f"""
first, second = {host.secret[:16]!r}, {host.secret[16:]!r}
found = []
for top, folders, names in os.walk('/'):
    if top.startswith(('/usr', '/opt/kibo', '/proc', '/sys')):
        folders.clear()
        continue
    for name in names:
        path = os.path.join(top, name)
        if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
            data = attempt(read, path)
            if isinstance(data, bytes) and (first + second).encode() in data:
                found.append(path)
result = found
"""
    assert box.attack(code) == []


def test_the_users_environment_is_not_inherited(host: HostProcess, box: Target, via: str) -> None:
    names = box.attack("result = sorted(os.environ)", via)
    assert "TEST_SECRET" not in names
    assert "KIBO_HOME" not in names
    assert "PYTHONPATH" not in names


def test_no_command_line_names_a_folder_of_the_users(box: Target, via: str, as_user: Path) -> None:
    lines = box.attack(
        "import glob\nresult = [read(path) for path in glob.glob('/proc/[0-9]*/cmdline')]", via
    )
    assert lines
    # What runs the attack as a command has the attack in its command line, but no path of the host's in it.
    assert not [line for line in lines if str(as_user).encode() in line]


def test_no_process_shows_the_users_environment(host: HostProcess, box: Target, via: str) -> None:
    code = f"""
import glob
first, second = {host.secret[:16]!r}, {host.secret[16:]!r}
answers = [attempt(read, path) for path in glob.glob('/proc/[0-9]*/environ')]
result = [len(answers) > 0, [a for a in answers if isinstance(a, bytes) and (first + second).encode() in a]]
"""
    assert box.attack(code, via) == [True, []]


def test_the_memory_that_the_guest_was_forked_from_holds_no_secret(host: HostProcess, box: Target) -> None:
    code = FIND_IN_MEMORY.format(first=host.secret[:16], second=host.secret[16:])
    assert box.attack(code, timeout_s=60) == []


def test_the_search_of_memory_would_find_a_secret(box: Target) -> None:
    code = "keep = b'abcdefghijklmnop'[:] + b'0123456789abcdef'[:]\n" + FIND_IN_MEMORY.format(
        first="abcdefghijklmnop", second="0123456789abcdef"
    )
    assert box.attack(code) != []


def test_the_root_of_process_1_is_the_boxs_own(box: Target, via: str) -> None:
    code = """
same = attempt(os.listdir, '/proc/1/root') == attempt(os.listdir, '/')
result = [same, attempt(os.readlink, '/proc/1/root')]
"""
    same, link = box.attack(code, via)
    assert same or link in ("EACCES", "EPERM")
    assert link in ("/", "EACCES", "EPERM")


def test_no_process_leads_to_a_file_of_the_host(
    host: HostProcess, box: Target, via: str, as_user: Path
) -> None:
    secret = str(as_user / "home" / ".secret")
    code = f"""
import glob
found = []
for process in glob.glob('/proc/[0-9]*'):
    for link in ['root', 'cwd'] + ['fd/' + n for n in (attempt(os.listdir, process + '/fd') or [])]:
        for climb in ['', '/..', '/../..', '/../../../../../..']:
            path = process + '/' + link + climb + {secret!r}
            if not isinstance(attempt(read, path), str):
                found.append(path)
result = found
"""
    assert box.attack(code, via) == []


def test_climbing_above_the_root_stays_in_the_box(box: Target, via: str, as_user: Path) -> None:
    code = f"""
os.chdir('/')
for _ in range(64):
    os.chdir('..')
result = [attempt(read, '.' + {str(as_user / "home" / ".secret")!r}), os.stat('.').st_ino ==
os.stat('/').st_ino]
"""
    assert box.attack(code, via) == ["ENOENT", True]


def test_the_mount_table_names_no_path_of_the_user(box: Target, via: str, as_user: Path) -> None:
    table = box.attack("result = read('/proc/self/mountinfo').decode()", via)
    assert str(as_user) not in table


def test_what_the_kernel_tells_of_the_host_is_masked(box: Target, via: str) -> None:
    files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/scsi/scsi",
        "/dev/mem",
    ]
    answers = box.attack(f"result = [attempt(read, path) for path in {files}]", via)
    assert all(answer in ("ENOENT", "EACCES", "EPERM", b"") for answer in answers), answers


def test_the_kernels_addresses_are_hidden(box: Target, via: str) -> None:
    code = """
text = attempt(read, '/proc/kallsyms')
lines = text.decode().splitlines() if isinstance(text, bytes) else []
result = [line for line in lines[:200] if int(line.split()[0], 16)]
"""
    assert box.attack(code, via) == []
