"""Environments: what a box's world is made of, as data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from kibo.model.errors import InvalidDefinition
from kibo.model.record import Record

Restart = Literal["always", "on-failure", "never"]
User = Literal["box", "root"]


class Limits(Record):
    """What a box may use at most. None leaves a bound at its default (`kibo.model.limits`).

    Args:
        memory_bytes: Memory of all its processes, file pages included.
        cpus: CPU time as a multiple of one CPU; 0.5 is half of one.
        pids: Processes and threads.
        disk_bytes: What it may write to its own file system.
        disk_files: Files, directories and links that it may make there.
        open_files: Descriptors of one process.
        wall_s: Seconds from spawn until the instance is destroyed.
        action_s: Seconds one action may take where it sets no `timeout_s` of its own.
        launch_s: Seconds one `launch()` or `resume()` may take.
        step_s: Seconds one build step may take.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk_bytes: int | None = None
    disk_files: int | None = None
    open_files: int | None = None
    wall_s: float | None = None
    action_s: float | None = None
    launch_s: float | None = None
    step_s: float | None = None

    def _settle(self) -> None:
        for name, value in self.as_dict().items():
            if value is None:
                continue
            numbers = (int, float) if name == "cpus" or name.endswith("_s") else (int,)
            if isinstance(value, bool) or not isinstance(value, numbers) or not value > 0:
                raise InvalidDefinition(
                    f"Limits({name}={value!r}) must be a {'number' if float in numbers else 'whole number'} above 0",
                    hint=f"{name}=2 << 30 is 2 GiB. Leave it out for the default."
                    if name.endswith("_bytes")
                    else "Leave it out for the default.",
                    details={"field": name, "value": repr(value)},
                )

    def merged(self, other: "Limits") -> "Limits":
        """Returns the larger of each; a side that says nothing goes along with the other."""
        mine, theirs = self.as_dict(), other.as_dict()
        return Limits(**{name: _larger(mine[name], theirs[name]) for name in mine})

    def inherited(self, own: "Limits") -> "Limits":
        """Returns these limits as a subclass sees them: what `own` sets wins, larger or not."""
        return Limits(**{**self.as_dict(), **{n: v for n, v in own.as_dict().items() if v is not None}})


def _larger(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)


class Service(Record):
    """A long-running program of a box, started before `launch()` and kept running.

    Args:
        name: Its name in logs and in `kibo ps`; unique in a sum.
        command: A shell command line, or a sequence of arguments run as they are.
        ready: How to know that it is ready: ``"tcp:5432"`` (something listens on that port of the box's loopback) or
            ``"cmd:pg_isready"`` (a command exits with 0). None takes it as ready once started.
        restart: When it is started again after it ends.
        start_timeout_s: Seconds it has to become ready.
        variables: Environment variables for it alone.
    """

    name: str
    command: str | Sequence[str]
    ready: str | None = None
    restart: Restart = "on-failure"
    start_timeout_s: float = 30.0
    variables: Mapping[str, str] = {}

    def _settle(self) -> None:
        if not isinstance(self.name, str) or not self.name or "/" in self.name or "\0" in self.name:
            raise InvalidDefinition(
                f"a service cannot be named {self.name!r}", hint="Use letters, digits, - and _."
            )
        if not isinstance(self.command, str):
            self._store("command", _strings("Service.command", self.command))
        if not self.command:
            raise InvalidDefinition(
                f"service {self.name!r} has no command", hint='Write command="postgres -D /srv/db".'
            )
        if self.ready is not None:
            self._check_ready(self.ready)
        if self.restart not in ("always", "on-failure", "never"):
            raise InvalidDefinition(
                f"service {self.name!r}: restart={self.restart!r} says nothing",
                hint='Write restart="always", "on-failure" or "never".',
            )
        if not is_seconds(self.start_timeout_s):
            raise InvalidDefinition(
                f"service {self.name!r}: start_timeout_s={self.start_timeout_s!r} is no time",
                hint="Give seconds above 0.",
            )
        self._store("variables", _mapping("Service.variables", self.variables))

    def _check_ready(self, ready: str) -> None:
        kind, _, rest = ready.partition(":")
        is_port = kind == "tcp" and rest.isascii() and rest.isdigit() and 0 < int(rest) < 65536
        if not is_port and not (kind == "cmd" and rest.strip()):
            raise InvalidDefinition(
                f"service {self.name!r}: ready={ready!r} is neither a port nor a command",
                hint='Write ready="tcp:5432" or ready="cmd:pg_isready".',
            )


class Env(Record):
    """The environment of a box: a base, and steps that each become a cached layer.

    Args:
        base: ``"host"`` (a curated read-only view of this machine's system directories), ``"debian:<release>"``, or
            ``"oci:<reference>"``. In a sum, ``"host"`` goes along with whatever base another part names.
        apt: Debian packages, each ``name`` or ``name=version``.
        pip: Python requirements, as pip takes them.
        npm: npm packages, each ``name`` or ``name@version``.
        files: What to put where: absolute paths in the box, each to a path on the host (str; relative to the file
            that defines the class) or to content (bytes).
        run: Shell commands that build, run in order after the packages, with network.
        services: Programs that run as long as the box does.
        variables: Environment variables of everything in the box.
        limits: What the box may use at most.
        user: Who programs in the box run as: ``"box"`` (uid 1000) or ``"root"`` (of the box alone).
        nested_namespaces: Whether programs in it may make user namespaces of their own, as Chromium's sandbox does.
    """

    base: str = "host"
    apt: Sequence[str] = ()
    pip: Sequence[str] = ()
    npm: Sequence[str] = ()
    files: Mapping[str, str | bytes] = {}
    run: Sequence[str] = ()
    services: Sequence[Service] = ()
    variables: Mapping[str, str] = {}
    limits: Limits = Limits()
    user: User = "box"
    nested_namespaces: bool = False

    def _settle(self) -> None:
        self._check_base()
        for name in ("apt", "pip", "npm", "run"):
            self._store(name, _strings(f"Env.{name}", getattr(self, name)))
        self._store("files", _files(self.files))
        self._store("variables", _mapping("Env.variables", self.variables))
        self._store("services", _services(self.services))
        if not isinstance(self.limits, Limits):
            raise InvalidDefinition(
                f"Env.limits must be Limits(...), got {type(self.limits).__name__}",
                hint="Write limits=Limits(memory_bytes=1 << 30).",
            )
        if self.user not in ("box", "root"):
            raise InvalidDefinition(
                f'Env.user must be "box" or "root", got {self.user!r}',
                hint="A box has these two users; root is root of the box alone.",
            )

    def _check_base(self) -> None:
        kind, _, rest = self.base.partition(":") if isinstance(self.base, str) else ("", "", "")
        if self.base != "host" and not (kind in ("debian", "oci") and rest):
            raise InvalidDefinition(
                f"Env.base={self.base!r} is not a base",
                hint='Use "host", "debian:bookworm" or "oci:<reference>".',
                details={"base": repr(self.base)},
            )


def is_seconds(value: object) -> bool:
    """Whether a value does as a time: a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _strings(what: str, values: Any) -> tuple[str, ...]:
    listed = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)
    strings = tuple(values) if listed else ()
    if not listed or not all(isinstance(value, str) and value for value in strings):
        raise InvalidDefinition(
            f"{what} must be a list of non-empty strings, got {values!r}",
            hint=f'Write {what.rpartition(".")[2]}=["one", "another"].',
        )
    return strings


class FrozenMapping(dict[str, Any]):
    """A dict that nothing changes once made, so that a record can hold and hash it."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a definition is immutable")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> Any:
        """Pickles as a call with the items: unpickling a dict would set them one by one."""
        return (type(self), (dict(self),))


def _mapping(what: str, values: Mapping[str, str]) -> Mapping[str, str]:
    hint = 'Write variables={"NAME": "value"}.'
    if not isinstance(values, Mapping):
        raise InvalidDefinition(f"{what} must be a dict, got {values!r}", hint=hint)
    for key, value in values.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key or not isinstance(value, str):
            raise InvalidDefinition(f"{what}: {key!r}: {value!r} must be a name and a string", hint=hint)
    return FrozenMapping(values)


def _files(files: Mapping[str, str | bytes]) -> Mapping[str, str | bytes]:
    hint = 'Write files={"/etc/app.toml": "app.toml"}, or the content as bytes: {"/etc/app.toml": b"..."}.'
    if not isinstance(files, Mapping):
        raise InvalidDefinition(f"Env.files must be a dict, got {files!r}", hint=hint)
    for path, source in files.items():
        parts = path.split("/") if isinstance(path, str) else []
        if not parts or parts[0] or parts[-1] in ("", ".") or ".." in parts or "\0" in path:
            raise InvalidDefinition(
                f"Env.files: {path!r} is not an absolute path of a file in the box",
                hint='Write it from the root, without "..": {"/etc/app.toml": "app.toml"}.',
            )
        if not isinstance(source, str | bytes):
            raise InvalidDefinition(
                f"Env.files[{path!r}] must be a host path (str) or content (bytes), got {type(source).__name__}",
                hint=hint,
            )
    return FrozenMapping(files)


def _services(services: Sequence[Service]) -> tuple[Service, ...]:
    listed = services if isinstance(services, list | tuple) else [None]
    names = [s.name if isinstance(s, Service) else None for s in listed]
    if None in names or len(set(names)) < len(names):
        raise InvalidDefinition(
            f"Env.services must be a list of Service(...) values with different names, got {services!r}",
            hint='Write services=[Service(name="db", command="...")].',
        )
    return tuple(services)
