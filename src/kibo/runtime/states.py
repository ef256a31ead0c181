"""Cached states: every prefix of a sum, launched once and kept as a sealed process that instances are forked from."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kibo.box.define import Box
from kibo.box.plan import Plan, plan
from kibo.box.ship import encode_parts
from kibo.box.sums import digest_of, prefix
from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import (
    ActionRaised,
    BuildFailed,
    HostUnsupported,
    InvalidInput,
    KiboError,
    StateNotForkable,
)
from kibo.model.ids import InstanceId, StateId
from kibo.model.limits import (
    DEFAULT_DISK_BYTES,
    DEFAULT_DISK_FILES,
    DEFAULT_LAUNCH_S,
    DEFAULT_MEMORY_BYTES,
    DEFAULT_OPEN_FILES,
    DEFAULT_PIDS,
    MAX_NAME,
)
from kibo.runtime import wire
from kibo.runtime.answering import Answering, Verbs
from kibo.runtime.channel import Channel
from kibo.runtime.egress import Door, Egress
from kibo.runtime.idmap import BOX_ID
from kibo.runtime.images.environment import (
    BuiltEnvironment,
    build_environment_blocking,
    find_environment,
    interpreter_layer,
)
from kibo.runtime.images.places import COMMANDS
from kibo.runtime.making import Making, make_all
from kibo.runtime.orders import FORK_S, UNWIND_S, lost
from kibo.runtime.recording import Recorder
from kibo.runtime.refusals import refusal_error, violation
from kibo.runtime.roots import HOST_USR
from kibo.runtime.servicing import stop_services
from kibo.runtime.session import Session
from kibo.runtime.trust import VARIABLES as TRUST
from kibo.runtime.trust import trust_layer
from kibo.runtime.waiting import Blocking, Waiting, run

#: Where a box finds its proxy.
PROXY_URL: Final = "http://127.0.0.1:3128"
#: The request to launch, of the three that a state is made by.
_LAUNCH: Final = 2

#: How long whoever counts waits for the warden, which may be copying files.
COUNT_S: Final = 2.0

Progress = Callable[[Any], None]


@dataclass(slots=True)
class State:
    """A sealed cell that instances are forked from."""

    cell: str
    session: Session
    built: BuiltEnvironment
    plan: Plan
    reads_host_files: bool


@dataclass(frozen=True, slots=True)
class Launching:
    """Told to a build's progress when a part of a sum starts being launched.

    Attributes:
        part: The part's name.
        cell: Where: ending this cell ends the launch.
    """

    part: str
    cell: str


@dataclass(frozen=True, slots=True)
class Launched:
    """Told to a build's progress when a part of a sum has been launched.

    Attributes:
        part: The part's name.
        seconds: How long ``launch()`` took.
        cached: Whether it was launched before.
    """

    part: str
    seconds: float
    cached: bool


@dataclass(slots=True)
class Spawned:
    """What an instance consists of, for whichever face.

    Attributes:
        states: Those of its session.
        state: What it was forked from first.
        instance: Its id.
        channel: To its guest, which is ready.
        upper: The layer on disk that it writes to or, sealed, will write to next; empty for one in memory.
        deltas: Sealed layers on disk that it lies on, besides its state's own, lowest first.
        taken: The same of the point that was taken of it last, whose last one may be a copy of its own.
        asker: On whose behalf it asks for something outside.
        shares: Whether it has directories that it shares with others of its branch.
    """

    states: States
    state: State
    instance: InstanceId
    channel: Channel
    upper: str = ""
    deltas: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    asker: Asker = NOBODY
    shares: bool = False


class States:
    """The states of one session, by digest. Thread-safe: whoever comes second waits for the first one's build."""

    def __init__(
        self, session: Session, egress: Egress, recorder: Callable[[], Recorder], verbs: Callable[[], Verbs]
    ) -> None:
        self.session = session
        self.egress = egress
        self._verbs = verbs
        self._answering: Answering | None = None
        self._recorder = recorder
        #: By digest, and by the recording or replay that their `launch()` was part of.
        self._ready: dict[tuple[str, str], State] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()
        self._waiting = Blocking()
        #: How often a state was asked for that was there, and how often one had to be made.
        self.hits = self.misses = 0

    def find(self, digest: str, tape: str = "") -> State | None:
        """Returns a state that is ready and up to date, without waiting for anybody."""
        found = self._ready.get((digest, tape))
        return found if found is not None and self._is_current(found) else None

    def key(self, box: Box, tape: str = "") -> tuple[str, str]:
        """Returns what a state is cached under. What a recording or a replay has answered a `launch()` stays in it."""
        return digest_of(box), tape if tape and plan(box).egress else ""

    def ensure(self, box: Box, progress: Progress | None = None, tape: str = "") -> State:
        """Returns the state of a definition; builds its environment and launches what is missing of its prefixes.

        Args:
            box: The definition.
            progress: Told of each step where something has to be built.
            tape: The recording or replay that its ``launch()`` is part of.

        Raises:
            BuildFailed: A step of the environment or a ``launch()`` failed. Nothing of it is left.
            InvalidInput: A secret has no value.
            SecretUnavailable: Where one's value is, nobody answers.
            StateNotForkable: A ``launch()`` left threads behind.
        """
        key = self.key(box, tape)
        found = self.find(*key)
        wanted = plan(box) if found is None else found.plan
        if wanted.secrets and wanted.egress:
            # Before hours of building; and whoever is asynchronous waits for Vault here, in a thread.
            self.egress.check(wanted.secrets, Asker(tape=tape))
        if found is not None:
            with self._guard:
                self.hits += 1
            return found
        with self._guard:
            self.misses += 1
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self.find(*key)
            if found is None:
                # One that is out of date stays for the instances that were forked from it.
                found = self._build(box, wanted, progress, key[1])
                self._ready[key] = found
            return found

    def forks(self) -> tuple[int, int]:
        """Asks how many forks were made of states for somebody, and how many of them were there already.

        Raises:
            RuntimeLost: The session is over.
        """
        answer, _ = run(self.session.ask(self._waiting, "counts", {}, timeout_s=COUNT_S))
        return answer["forks"], answer["ahead"]

    def forget(self, tape: str, *, ended: bool) -> None:
        """Forgets the states of a recording or a replay that has ended.

        Args:
            tape: Which.
            ended: Whether all instances that were forked from them have ended, too: else their processes stay.
        """
        with self._guard:
            taken = [self._ready.pop(key) for key in list(self._ready) if key[1] == tape]
            for key in [key for key in self._locks if key[1] == tape]:
                del self._locks[key]
        for state in reversed(taken) if ended else ():
            self.session.forget(state.cell)

    def _is_current(self, state: State) -> bool:
        """Tells whether the host's files that went into a state are still the same; free where there are none."""
        if not state.reads_host_files:
            return True
        found = find_environment(state.plan.env, home=self.session.home)
        return found is not None and found.layers == state.built.layers

    def _build(self, box: Box, wanted: Plan, progress: Progress | None, tape: str) -> State:
        count = len(wanted.parts)
        built = build_environment_blocking(wanted.env, home=self.session.home, progress=progress)
        base = self.ensure(prefix(box, count - 1), progress, tape) if count > 1 else None
        cell = StateId.new()
        channel = self._start(cell, wanted, built, base, Asker(tape=tape))
        try:
            self._load(channel, wanted)
            if count:
                self._launch(channel, cell, wanted, progress)
            self._seal(channel, cell, wanted)
        except BaseException:
            self.session.forget(cell)
            raise
        finally:
            channel.close()
        reads_host_files = any(isinstance(source, str) for source in wanted.env.files.values())
        return State(cell, self.session, built, wanted, reads_host_files)

    async def fork(
        self,
        waiting: Waiting,
        state: State,
        name: str = "",
        *,
        upper: str = "",
        over: Sequence[str] = (),
        asker: Asker = NOBODY,
        shared: Mapping[str, Any] | None = None,
    ) -> Spawned:
        """Makes a live fork of a state. Its guest is ready.

        Args:
            waiting: How to wait.
            state: What to fork.
            name: What to call it; may be empty.
            upper: The layer on disk that it is to write to; one in memory where empty.
            over: Sealed layers on disk that it is to lie on, besides the state's own, lowest first.
            asker: On whose behalf it asks for something outside.
            shared: What it is to have of a branch's shared directories, as the warden is told: ``id`` and ``names``.
        """
        _check_name(name)
        cell = InstanceId.new()
        arguments: dict[str, Any] = {"id": cell, "source": state.cell, "upper": upper, "over": list(over)}
        if name:
            arguments["name"] = name
        if shared is not None:
            arguments["shared"] = dict(shared)
        if state.plan.limits.wall_s:
            arguments["setup"] = {"wall_s": state.plan.limits.wall_s}
        channel = await self.make(waiting, "fork", arguments, state.plan, asker)
        return Spawned(self, state, cell, channel, upper, tuple(over), asker=asker, shares=shared is not None)

    def _start(
        self, cell: StateId, wanted: Plan, built: BuiltEnvironment, base: State | None, asker: Asker
    ) -> Channel:
        lowers, usr_lowers = self._lowers(wanted, built), _usr_lowers(built)
        if wanted.rights:
            _ = self.answering  # before anybody can knock
        arguments: dict[str, Any] = {"id": cell, "label": _label(wanted), "setup": self._setup(wanted, built)}
        arguments |= {
            "disk_bytes": wanted.limits.disk_bytes or DEFAULT_DISK_BYTES,
            "disk_files": wanted.limits.disk_files or DEFAULT_DISK_FILES,
        }
        if base is not None:
            arguments["source"] = base.cell
            # A part that is the first to want a way out adds what makes its programs trust the gateway, and one that
            # names a host for any protocol adds its name.
            ways = [(bool(plan.egress), plan.forwards) for plan in (wanted, base.plan)]
            if built.layers != base.built.layers or ways[0] != ways[1]:
                arguments |= {"lowers": lowers, "usr_lowers": usr_lowers}
            return run(self.make(self._waiting, "fork", arguments, wanted, asker))
        arguments |= {
            "lowers": lowers,
            "usr_lowers": usr_lowers,
            "writable_usr": wanted.env.user == "root" and built.host_view,
            "nested": wanted.env.nested_namespaces,
        }
        return run(self.make(self._waiting, "new", arguments, wanted, asker))

    async def make(
        self,
        waiting: Waiting,
        order: str,
        arguments: dict[str, Any],
        wanted: Plan,
        asker: Asker = NOBODY,
    ) -> Channel:
        making = self.begin(order, arguments, wanted, asker)
        try:
            await make_all(waiting, [making])
        except BaseException:
            making.discard()
            raise
        return making.channel

    def begin(self, order: str, arguments: dict[str, Any], wanted: Plan, asker: Asker = NOBODY) -> Making:
        """Has a cell made, with a way out if it has one."""
        door = self.door(arguments["id"], wanted, asker) if wanted.egress else None
        return Making(self.session, order, arguments, wanted, door)

    @property
    def recorder(self) -> Recorder:
        """What records calls; made for the first that needs it."""
        return self._recorder()

    @property
    def answering(self) -> Answering:
        """What answers boxes that call out; made for the first that may."""
        with self._guard:
            if self._answering is None:
                self._answering = Answering(self.session, self._verbs())
            return self._answering

    def end_callers(self) -> None:
        """Ends all that boxes have made by calling out."""
        if self._answering is not None:
            self._answering.close()

    def door(self, cell: str, wanted: Plan, asker: Asker) -> Door:
        """Makes a way out for a cell."""
        return self.egress.door(cell, wanted.egress, wanted.secrets, asker)

    def _lowers(self, wanted: Plan, built: BuiltEnvironment) -> list[str]:
        home = self.session.home
        layers = [*built.layers, interpreter_layer(home)]
        if wanted.egress:
            layers.append(trust_layer(home, built.layers, self.egress.certificate(), wanted.forwards))
        return [f"/kibo/layers/{layer.path.parent.name}/fs" for layer in layers]

    def _setup(self, wanted: Plan, built: BuiltEnvironment) -> dict[str, Any]:
        limits = wanted.limits
        site = f"/opt/kibo/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
        return {
            "uid": 0 if wanted.env.user == "root" else BOX_ID,
            "hostname": "box",
            "cwd": "/work",
            "variables": _variables(wanted, built),
            "python_path": [site, f"{site}/lib-dynload", "/opt/kibo/pip", "/opt/kibo/site"],
            "open_files": limits.open_files or DEFAULT_OPEN_FILES,
            "pids": limits.pids or DEFAULT_PIDS,
            "limits": self._group_limits(wanted),
            "forwards": [(forward.address, forward.port) for forward in wanted.forwards],
            "doorway": bool(wanted.rights),
        }

    def _group_limits(self, wanted: Plan) -> dict[str, Any]:
        """What a control group holds: what was asked for, and defaults where the host has groups for this user."""
        limits = wanted.limits
        asked = {"memory_bytes": limits.memory_bytes, "cpus": limits.cpus}
        asked = {name: value for name, value in asked.items() if value is not None}
        if not self.session.facts["cgroups"]:
            if asked:
                raise HostUnsupported(
                    f"this host cannot limit {' and '.join(asked)} for this user",
                    hint="Run as root, or have a cgroup v2 subtree delegated to you (`kibo doctor` says how); "
                    "or leave these limits out.",
                    details={"missing": sorted(asked)},
                )
            return {}
        return {"memory_bytes": DEFAULT_MEMORY_BYTES, "pids": limits.pids or DEFAULT_PIDS} | asked

    def _ask(self, channel: Channel, request: list[Any], what: str, timeout_s: float) -> Any:
        """Asks a guest that is becoming a state. What it is asked to do has its time, and is killed with it after.

        Raises:
            BuildFailed: It ended, or did not answer in time.
            KiboError: What it answered.
        """

        async def converse() -> Any:
            await channel.send(self._waiting, request)
            return await channel.receive(self._waiting, timeout_s)

        try:
            reply = run(converse())
        except (wire.Closed, ConnectionError):
            raise (
                BuildFailed(
                    "the box ended while its state was being built",
                    hint="Did launch() exit, or use up its memory?",
                )
                if self.session.alive
                else lost()
            ) from None
        except wire.FrameError as error:
            raise violation(str(error)) from None
        except TimeoutError:
            raise BuildFailed(
                f"{what} did not end within {timeout_s:g} s",
                hint="Raise Limits.launch_s if it needs longer; nothing of the state was kept.",
                step=what,
                details={"timeout_s": timeout_s},
            ) from None
        if not (isinstance(reply, list) and len(reply) == 3):
            raise violation("its answer has no form")
        if reply[0] == "error":
            raise refusal_error(reply[2])
        return reply[2]

    def _interrupt(self, channel: Channel, cell: StateId) -> None:
        """Has a launch that is late unwind, so that it closes what it opened; it is killed in any case."""
        with contextlib.suppress(KiboError, TimeoutError, wire.Closed, wire.FrameError, ConnectionError):
            order = {"id": cell, "request": _LAUNCH}
            run(self.session.ask(self._waiting, "interrupt", order, timeout_s=UNWIND_S))
            run(channel.receive(self._waiting, UNWIND_S))

    def _load(self, channel: Channel, wanted: Plan) -> None:
        try:
            what = f"loading {_label(wanted)}"
            self._ask(channel, ["load", 1, encode_parts(wanted)], what, _launch_s(wanted))
        except ActionRaised as error:
            missing = error.remote_type in ("ModuleNotFoundError", "ImportError")
            raise BuildFailed(
                f"the code of {_label(wanted)} could not be loaded in the box: {error.message}",
                hint="Name what it imports in Env(pip=[...]), or import it inside the method that uses it on the host."
                if missing
                else "See the remote traceback.",
                step="load",
                log_tail=error.remote_traceback,
            ) from error

    def _launch(self, channel: Channel, cell: StateId, wanted: Plan, progress: Progress | None) -> None:
        part = wanted.parts[-1]
        begin = time.monotonic()
        if progress is not None:
            progress(Launching(part.name, cell))
        try:
            if part.has_launch:
                request = ["launch", _LAUNCH, len(wanted.parts) - 1]
                self._ask(channel, request, f"launch {part.name}", _launch_s(wanted))
        except BuildFailed as error:
            if "timeout_s" in error.details:
                self._interrupt(channel, cell)
            raise
        except ActionRaised as error:
            raise BuildFailed(
                f"{part.name}.launch() raised {error.message}",
                hint=error.hint,
                step=f"launch {part.name}",
                log_tail=error.remote_traceback,
            ) from error
        if progress is not None:
            progress(Launched(part.name, time.monotonic() - begin, False))

    def _seal(self, channel: Channel, cell: StateId, wanted: Plan) -> None:
        left = self._ask(channel, ["seal", 3], f"suspending {_label(wanted)}", _launch_s(wanted))
        if not isinstance(left, dict):
            raise violation("its answer has no form")
        if "unforkable" in left:
            name, kept = _label(wanted), ", ".join(map(str, left["unforkable"]))
            raise StateNotForkable(
                f"{name}.launch() left what no fork can have of its own: {kept}",
                hint=f"Close it in launch() or in {name}.suspend(), and open it again in {name}.resume().",
                details={"part": name, "kept": left["unforkable"]},
            )
        if "threads" in left:
            name = wanted.parts[-1].name
            threads = ", ".join(map(str, left["threads"])) or f"{left['thread_count']} in native code"
            raise StateNotForkable(
                f"{name}.launch() left threads behind ({threads}), and a process with threads cannot be forked",
                hint=f"End them in launch(), or close in {name}.suspend() what {name}.resume() opens.",
                details={"part": name, "threads": left["threads"]},
            )
        if wanted.env.services:
            run(stop_services(self._waiting, self.session, cell))
        try:
            run(self.session.ask(self._waiting, "seal", {"id": cell}, timeout_s=FORK_S))
        except TimeoutError:
            raise violation("its runner no longer does as the warden asks") from None


def _check_name(name: str) -> None:
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(
            f"an instance cannot be called {name!r}",
            hint=f"Give a word or two, of at most {MAX_NAME} characters.",
        )


def _launch_s(wanted: Plan) -> float:
    return wanted.limits.launch_s or DEFAULT_LAUNCH_S


def _label(wanted: Plan) -> str:
    return " + ".join(part.name for part in wanted.parts) or "Box()"


def _usr_lowers(built: BuiltEnvironment) -> list[str]:
    if not built.host_view:
        return []
    own = [
        layer.path for layer in built.layers if (usr := layer.path / "usr").is_dir() and any(usr.iterdir())
    ]
    return [HOST_USR, *(f"/kibo/layers/{path.parent.name}/fs/usr" for path in own)]


def _variables(wanted: Plan, built: BuiltEnvironment) -> dict[str, str]:
    variables = {
        "HOME": "/root" if wanted.env.user == "root" else "/home/box",
        "USER": "root" if wanted.env.user == "root" else "box",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        **built.variables,
        # The values are put in on the way out, and never enter the box.
        **{secret.name: secret.placeholder for secret in wanted.secrets},
    }
    if wanted.egress:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            variables[name] = PROXY_URL
        variables["no_proxy"] = variables["NO_PROXY"] = "127.0.0.1,localhost"
        # What the environment says itself stands: a program may have good reason to trust one bundle only.
        variables = {**TRUST, **variables}
    if wanted.rights:
        variables["PATH"] = f"{variables['PATH']}:{COMMANDS}"
    return variables
