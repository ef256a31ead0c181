"""Where build steps run: a chroot into an overlay, in namespaces of its own, as root over ids that mean nothing else.

The overlay's writable layer lies on the state directory's file system and becomes the step's layer. The host's /usr,
on ``base="host"``, is a second overlay below ``/usr``, because an overlay does not see what is mounted inside its
lower directories; what a step changes there is moved to ``usr`` of the same layer. The host's package database is a
third. The host's network is kept, its files are not visible. Sources: overlayfs in the kernel's documentation,
user_namespaces(7), mount_setattr(2).
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import signal
import socket
import stat
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from kibo.model.errors import HostUnsupported
from kibo.runtime import kernel, oldermounts
from kibo.runtime.cgroups import CgroupHandle
from kibo.runtime.idmap import ROOT_BASE, IdMap, write_maps
from kibo.runtime.images.bounds import Deadline, StepBounds
from kibo.runtime.images.inside import Inside, Refusal
from kibo.runtime.layers.home import kernel_features_to_do_without
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.runtime.overlaytrial import make_parts, try_upper

_NAMESPACES: Final = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
#: A step's answer: what it resolved. The largest is a package lock of some thousand packages.
_MAX_ANSWER_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay mount of a sandbox.

    Attributes:
        target: Where it is mounted, absolute.
        lowers: Its lower directories, lowest first.
        host: A directory of the host that lies below them, shown with the sandbox's ids; empty for none.
        writable: Whether changes are kept, in a directory of the step's entry.
    """

    target: str
    lowers: tuple[Path, ...]
    host: str = ""
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that a step sees. Read-only unless it is the step's own output."""

    source: Path
    target: str
    writable: bool = False


@dataclass(slots=True)
class Sandbox:
    """One step's root and its results.

    Attributes:
        entry: The work in progress that holds the writable layers.
        idmap: Which ids of the host the sandbox's ids are.
        overlays: What the root is made of; the first is ``/``.
        binds: What else the step sees.
        variables: The environment of its programs.
        bounds: What they may use.
    """

    entry: TemporaryEntry
    idmap: IdMap
    overlays: Sequence[Overlay]
    binds: Sequence[Bind] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    bounds: StepBounds = StepBounds()  # noqa: RUF009 - frozen

    def run(
        self, action: Callable[[Inside], dict[str, Any]], on_output: Callable[[bytes], None]
    ) -> dict[str, Any]:
        """Runs ``action`` as process 1 inside, and waits for it and everything that it started to end.

        Args:
            action: Runs in a fork of this process; its result must be JSON values.
            on_output: Called with what it and its programs print, as it comes.

        Returns:
            What the action returned.

        Raises:
            Refusal: The action raised it, a program failed, or a bound was reached; ``code`` says which.
            HostUnsupported: The kernel refused a mount that the sandbox cannot do without.
        """
        for index, overlay in enumerate(self.overlays):
            if overlay.writable:
                self._make_upper(index, overlay)
        self._make_trial()
        with self.bounds.group(self.entry) as group:
            return self._run(action, on_output, group)

    def _run(
        self,
        action: Callable[[Inside], dict[str, Any]],
        on_output: Callable[[bytes], None],
        group: CgroupHandle | None,
    ) -> dict[str, Any]:
        deadline = Deadline(self.bounds)
        parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        output_read, output_write = os.pipe()
        flags = _NAMESPACES | (kernel.CLONE_NEWUSER if self.idmap.kind == "root" else 0)
        pid = kernel.clone(flags)
        if pid == 0:
            parent.close()
            os.close(output_read)
            self._child(action, child, output_write, group)
        child.close()
        os.close(output_write)
        try:
            self._admit(pid, parent)
            while chunk := _read(output_read, deadline):
                on_output(chunk)
            answer = b""
            while (chunk := _read(parent.fileno(), deadline)) and len(answer) <= _MAX_ANSWER_BYTES:
                answer += chunk
        finally:
            parent.close()
            os.close(output_read)
            # Process 1 ends every process of its namespace with it.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        reply: dict[str, Any] = (
            json.loads(answer)
            if answer
            else {"refused": "exited", "message": "the step's first process was killed"}
        )
        if "refused" in reply:
            if group is not None and group.oom_events():
                mib = self.bounds.memory_bytes >> 20
                raise Refusal("memory", f"it used more than the {mib} MiB of memory that a step may use")
            raise Refusal(reply["refused"], reply["message"], reply.get("details"))
        return dict(reply["result"])

    def upper(self, index: int) -> Path:
        """Returns the writable directory of one overlay."""
        return self.entry.path / f"layer{index}" / "upper"

    def own(self, path: Path) -> None:
        """Gives a path to the sandbox's root."""
        if self.idmap.kind == "root":
            os.chown(path, ROOT_BASE, ROOT_BASE)

    def _make_upper(self, index: int, overlay: Overlay) -> None:
        upper = self.upper(index)
        upper.mkdir(parents=True)
        (upper.parent / "work").mkdir()
        # The directory's own mode and owner are those of the mount point.
        modes = [
            path.stat().st_mode & 0o7777 for path in (*overlay.lowers[-1:], *map(Path, overlay.host.split()))
        ]
        upper.chmod(modes[0] if modes else 0o755)
        self.own(upper)
        self.own(upper.parent / "work")

    def _make_trial(self) -> None:
        """Makes, beside the writable layers, what shows whether their file system can hold any."""
        trial = self.entry.path / "trial"
        trial.mkdir(exist_ok=True)
        if not any(trial.iterdir()):
            fd = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            make_parts(fd)
            os.close(fd)
            for path in (trial, *trial.rglob("*")):
                self.own(path)

    def _admit(self, pid: int, channel: socket.socket) -> None:
        """Gives the waiting child its ids, then the mounts that only the host's root can make."""
        if self.idmap.kind == "root":
            write_maps(pid, self.idmap)
        hosts = [overlay.host for overlay in self.overlays if overlay.host]
        trees: list[int] = []
        try:
            if self.idmap.kind == "root":
                trees = [_show_host(path, pid) for path in hosts]
            payload = array.array("i", trees)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)] if trees else []
            channel.sendmsg([b"go"], ancillary)
        finally:
            for fd in trees:
                os.close(fd)

    def _child(
        self,
        action: Callable[[Inside], dict[str, Any]],
        channel: socket.socket,
        output: int,
        group: CgroupHandle | None,
    ) -> NoReturn:
        """Process 1 of the sandbox. Never returns into the builder's code."""
        status = 1
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            for fd in group.attach_fds if group is not None else ():
                os.write(fd, b"0")
                os.close(fd)
            message, ancillary, _flags, _address = channel.recvmsg(16, socket.CMSG_SPACE(4 * 8))
            if not message:
                os._exit(1)  # the builder ended before it could let this process in
            trees: list[int] = []
            for _level, _type, data in ancillary:
                trees += array.array("i", data[: len(data) - len(data) % 4])
            for number in (1, 2):
                os.dup2(output, number)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            # Still the host's root here, which may enter its own directories; the root inside may not. And already
            # in the new mount namespace: an overlay takes no directory of another one.
            places = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in self._paths()}
            if self.idmap.kind == "root":
                os.setgroups([])
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                # A change of ids clears the parent-death signal, prctl(2).
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.sethostname("box")
            os.umask(0o022)
            inside = Inside(dict(self.variables), fake_ids=self.idmap.kind == "single")
            self._enter(places, trees, inside)
            reply: dict[str, Any] = {"result": action(inside)}
            inside.leave()
            status = 0
        except Refusal as refusal:
            reply = {"refused": refusal.code, "message": refusal.message, "details": refusal.details}
        except BaseException as error:  # noqa: BLE001 - the process ends here; its parent raises what this reports
            traceback.print_exc()
            reply = {"refused": "raised", "message": f"{type(error).__name__}: {error}"}
        try:
            os.close(output)
            for number in (1, 2):
                os.dup2(0, number)
            channel.sendall(json.dumps(reply).encode())
        finally:
            os._exit(status)

    def _paths(self) -> list[Path]:
        """Lists every path of the host that the sandbox is made of."""
        paths = [path for overlay in self.overlays for path in overlay.lowers]
        for index, overlay in enumerate(self.overlays):
            if overlay.writable:
                paths += [self.upper(index), self.upper(index).parent / "work"]
        return [*paths, self.entry.path / "trial", *(bind.source for bind in self.binds)]

    def _enter(self, places: Mapping[Path, int], trees: list[int], inside: Inside) -> None:
        """Builds the root and changes into it. Each mount is made before the old root goes."""
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        # Id-mapped trees need a place in this namespace before an overlay may use them (kernels before 6.15).
        kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
        _try_upper(places[self.entry.path / "trial"])
        mounts: list[tuple[int, str]] = []
        for index, overlay in enumerate(self.overlays):
            lowers = [f"/proc/self/fd/{places[path]}" for path in overlay.lowers]
            mapped = bool(overlay.host and trees)
            if mapped:
                place = f"/tmp/host{index}"
                os.mkdir(place)
                kernel.move_mount(trees.pop(0), place)
                lowers.insert(0, place)
            if overlay.host and not mapped:
                mounts.append((_read_only(overlay.host), overlay.target))
                continue
            upper = (-1, -1)
            if overlay.writable:
                upper = places[self.upper(index)], places[self.upper(index).parent / "work"]
            mounts.append((_mount_overlay(lowers, *upper), overlay.target))
        binds = [(*_bind(places[bind.source], writable=bind.writable), bind.target) for bind in self.binds]
        devices = [
            (kernel.open_tree(kernel.AT_FDCWD, f"/dev/{name}", kernel.OPEN_TREE_CLONE), name)
            for name in _DEVICES
        ]
        proc = _new("proc")
        root_fd = mounts[0][0]
        kernel.move_mount(root_fd, "/")
        os.fchdir(root_fd)
        kernel.pivot_root(".", ".")
        kernel.umount2(".", kernel.MNT_DETACH)
        os.chdir("/")
        for fd, target in mounts[1:]:
            inside.attach(fd, target, directory=True)
        inside.attach(proc, "/proc", directory=True)
        _furnish(inside, devices)
        for fd, directory, target in binds:
            inside.attach(fd, target, directory=directory)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        # What steps run may have this process's id and rights. Its memory and environment are copies of the user's,
        # and /proc/1/exe is the user's own interpreter: none of that is theirs to reach. Programs begin afresh.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _read(fd: int, deadline: Deadline) -> bytes:
    """Reads what a step says, for as long as it may run.

    Raises:
        Refusal: Its time is up.
    """
    if not select.select([fd], [], [], deadline.left_s())[0]:
        raise Refusal("timeout", f"it did not end within {deadline.limit_s:g} s")
    return os.read(fd, 65_536)


def _furnish(inside: Inside, devices: list[tuple[int, str]]) -> None:
    """Gives the root its /dev and an empty /run, in memory."""
    for target, options in (("/dev", "mode=755"), ("/run", "mode=755")):
        inside.attach(_new("tmpfs", options), target, directory=True)
    for fd, name in devices:
        inside.attach(fd, f"/dev/{name}", directory=False)
    for name, link in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(link, f"/dev/{name}")
    inside.attach(_new("tmpfs", "mode=1777"), "/dev/shm", directory=True)
    inside.attach(_new("devpts", "ptmxmode=0666,mode=0620"), "/dev/pts", directory=True)
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.makedirs("/run/lock", 0o1777, exist_ok=True)
    os.makedirs("/run/kibo", 0o755, exist_ok=True)


def _show_host(path: str, pid: int) -> int:
    """Copies a mount of the host's with the ids of a process's user namespace, so that root inside owns it.

    Raises:
        HostUnsupported: The file system has no id-mapped mounts.
    """
    tree = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    except OSError as error:
        os.close(tree)
        raise HostUnsupported(
            f"the file system of {path} cannot be mounted with other ids: {error.strerror}",
            hint='use base="debian:bookworm", or a kernel of 5.19 or later with /usr on ext4, xfs or btrfs',
            details={"missing": "idmapped-mounts", "path": path},
        ) from error
    finally:
        os.close(namespace)
    return tree


def _new(fstype: str, options: str = "") -> int:
    context = kernel.fsopen(fstype)
    try:
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            kernel.fsconfig_string(context, key, value)
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, kernel.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)


def _mount_overlay(lowers: list[str], upper: int, work: int) -> int:
    if not oldermounts.try_features(kernel_features_to_do_without()).layers_one_by_one:
        os.makedirs("/tmp/scratch", exist_ok=True)
        sides = f",upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}" if upper >= 0 else ""
        return oldermounts.overlay_by_path(lowers, sides, kernel.MOUNT_ATTR_NOSUID, "/tmp/scratch")
    context = kernel.fsopen("overlay")
    try:
        # One call a layer: one string of all may have 255 bytes at most, some fifteen layers.
        for lower in reversed(lowers):
            kernel.fsconfig_string(context, "lowerdir+", lower)
        if upper >= 0:
            kernel.fsconfig_string(context, "upperdir", f"/proc/self/fd/{upper}")
            kernel.fsconfig_string(context, "workdir", f"/proc/self/fd/{work}")
        kernel.fsconfig_flag(context, "userxattr")
        kernel.fsconfig_create(context)
        return kernel.fsmount(context, kernel.MOUNT_ATTR_NOSUID)
    except OSError as error:
        if upper >= 0 and error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EREMOTE):
            raise Refusal("unsupported", f"the overlay was refused: {error}") from error
        raise
    finally:
        os.close(context)


def _try_upper(place: int) -> None:
    """Refuses a file system on which a step could write, but remove nothing."""
    try:
        try_upper(f"/proc/self/fd/{place}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refusal("unsupported", f"an overlay cannot remove what is below it: {error}") from error


def _bind(place: int, *, writable: bool) -> tuple[int, bool]:
    tree = kernel.open_tree(place, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
    if not writable:
        kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY)
    return tree, stat.S_ISDIR(os.fstat(place).st_mode)


def _read_only(path: str) -> int:
    tree = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
    kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY, recursive=True)
    return tree
