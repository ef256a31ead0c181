"""How a Box is defined: the class, its actions and its needs.

This module is imported on the host, where a Box is an immutable definition, and inside boxes, where the same class
is the live object: `__kibo_restore__` makes it one. Whatever only the host needs is imported where it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast, get_args, overload

from kibo.box.env import Env, is_seconds
from kibo.box.policy import Rule, Secret
from kibo.box.rights import Quota, Right
from kibo.model.errors import InvalidDefinition, WrongState

if TYPE_CHECKING:
    from os import PathLike

    from kibo.box.tools import Format

Function = TypeVar("Function", bound=Callable[..., Any])
BoxType = TypeVar("BoxType", bound="Box")

#: What an action does to the outside world; decides what a branch that is not `main` does with it.
Effect = Literal["none", "read", "bufferable", "reversible", "irreversible"]

#: Names that every instance has of its own: an action with one of them could not be reached.
INSTANCE_NAMES = frozenset(
    "alive branch context delegate destroy diff digest env egress exec files fork id launch logs mail off_event"
    " on_event on_message popen progress publish_event quota request resume rights secrets send_message session shell"
    " skill snapshot spawn status suspend tools".split()
)
#: Names of the definition that a parameter cannot have.
DEFINITION_NAMES = frozenset(
    "digest egress env launch quota resume rights secrets skill spawn suspend tools".split()
)
#: What the tool formats of model providers take.
MAX_ACTION_NAME = 64

_CO_COROUTINES = 0x80 | 0x100 | 0x200  # inspect.CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR
_CO_GENERATOR = 0x20
_LIVE = "_kibo_live"


class Action:
    """A method that `@action` marked. Read from a live object it is the method; a definition refuses to run it."""

    #: What undoes it, what tells whether it has happened, and what names one intent; see `action`.
    compensate: str = ""
    verify: str = ""
    key: "str | Callable[..., str]" = ""

    def __init__(self, function: Callable[..., Any], effect: Effect, timeout_s: float | None) -> None:
        self.function = function
        self.effect = effect
        self.timeout_s = timeout_s
        #: The resolved annotations, once the host has read them. They travel into boxes, where the globals that
        #: annotations written as strings name do not.
        self.hints: dict[str, Any] | None = None
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    @property
    def streaming(self) -> bool:
        """Whether it is a generator: what it yields is streamed, what it returns is the result."""
        return bool(self.function.__code__.co_flags & _CO_GENERATOR)

    @property
    def marked(self) -> bool:
        """Whether it says more of its effect than the class of that."""
        return bool(self.compensate or self.verify or self.key)

    @property
    def recorded(self) -> bool:
        """Whether the ledger has its calls."""
        return bool(self.compensate or self.key)

    def __get__(self, owner: "Box | None", cls: type | None = None) -> Any:
        """The bound method where the box is live; on a definition, a callable that says what to do instead."""
        if owner is None:
            return self
        if owner.__dict__.get(_LIVE):
            return self.function.__get__(owner, cls)
        return _NotRunning(owner, self.function.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with `self` given, as `super()`-less calls such as `Base.open(self, url)` do."""
        return self.function(*args, **kwargs)


class _NotRunning:
    def __init__(self, box: "Box", name: str) -> None:
        self.box = box
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise WrongState(
            f"{self.box!r} is a definition and does not run: {self.name}() needs an instance",
            hint=f"Call it on an instance: box.spawn().{self.name}(...).",
            details={"action": self.name},
        )


@overload
def action(function: Function, /) -> Function: ...
@overload
def action(
    *,
    effect: Effect = "none",
    timeout_s: float | None = None,
    compensate: str | Callable[..., Any] = "",
    verify: str | Callable[..., Any] = "",
    key: str | Callable[..., str] = "",
) -> Callable[[Function], Function]: ...
def action(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = "none",
    timeout_s: float | None = None,
    compensate: str | Callable[..., Any] = "",
    verify: str | Callable[..., Any] = "",
    key: str | Callable[..., str] = "",
) -> Any:
    """Makes a method of a Box an action: the only thing that callers of an instance see.

    Its parameters and its result are typed by its annotations; its docstring is the guidance that a model reads. A
    generator streams what it yields.

    Args:
        function: The method, where the decorator is used bare.
        effect: What it does to the outside world. ``"read"`` also promises that it leaves the instance's live state as
            it is: a branch in which only reads ran, and no file changed, has not moved, and its forks can be committed.
        timeout_s: Seconds it may take; None leaves it to the box's limits.
        compensate: The action of this class that undoes it, or its name, where the effect is ``"reversible"``. It is
            called with the arguments of the call that it has parameters for, and with what the call returned where
            it has a parameter ``result``. Calls are recorded, happen at once also in a fork, and are undone when their
            branch is aborted or becomes stale.
        verify: The action of this class, with the effect ``"read"``, that tells whether a call of which that is not
            known has happened: True, False, None where it cannot tell, or else what the call was to return.
        key: Names one intent, by the arguments: ``"{order}"``, or a function of those that it has parameters for. Calls
            are recorded, and one whose key stands for a call already is not made again.

    Raises:
        InvalidDefinition: It is a coroutine, has a name that an instance uses itself, or an unknown effect. What the
            three last arguments name is checked when the class is made.
    """

    def mark(method: Callable[..., Any]) -> Action:
        _check_action(method, effect, timeout_s)
        made = Action(method, effect, timeout_s)
        if compensate or verify or key:
            made.compensate, made.verify, made.key = _name_of(compensate), _name_of(verify), key
        return made

    return mark if function is None else mark(function)


def _check_action(method: Callable[..., Any], effect: str, timeout_s: float | None) -> None:
    code = getattr(method, "__code__", None)
    name = getattr(method, "__name__", "")
    if code is None:
        raise InvalidDefinition(
            f"@action marks methods, not {type(method).__name__}",
            hint="Write it above `def`; other decorators go below it.",
        )
    if code.co_flags & _CO_COROUTINES:
        raise InvalidDefinition(
            f"action {name}() is asynchronous; actions of a box run one at a time",
            hint="Write it with `def`; a generator (`yield`) streams progress.",
            details={"action": name},
        )
    if name in INSTANCE_NAMES:
        raise InvalidDefinition(
            f"an action cannot be called {name}: every instance has {name} of its own",
            hint=f"Name it for what it does to the box's subject, such as {name}_page.",
            details={"action": name},
        )
    if name.startswith("_") or not name.isascii() or len(name) > MAX_ACTION_NAME:
        raise InvalidDefinition(
            f"an action cannot be called {name!r}",
            hint=f"Use at most {MAX_ACTION_NAME} ASCII letters, digits and _, and no leading _.",
            details={"action": name},
        )
    if effect not in get_args(Effect):
        raise InvalidDefinition(f"{effect!r} is not an effect", hint=f"One of {', '.join(get_args(Effect))}.")
    if timeout_s is not None and not is_seconds(timeout_s):
        raise InvalidDefinition(
            f"action {name}(): timeout_s={timeout_s!r} is no time", hint="Give seconds above 0."
        )


def _name_of(method: str | Callable[..., Any]) -> str:
    name = method if isinstance(method, str) else getattr(method, "__name__", None)
    if not isinstance(name, str):
        raise InvalidDefinition(f"{method!r} is no action", hint="Give an action of the class, or its name.")
    return name


def on_event(name: str, *, group: str = "", timeout_s: float | None = None) -> Callable[[Function], Function]:
    """Marks a method of a Box as the handler of events; it runs inside the instance, one message at a time.

    It takes the event, a `kibo.Message`, or nothing. One that raises gets the event again, up to five times.

    Args:
        name: What the events are called, or a pattern of that: ``order.*``, ``order.>``.
        group: Of all handlers in a branch that have one, each event goes to one.
        timeout_s: Seconds it may take; None leaves it to the box's limits.

    Raises:
        InvalidInput: The name is no pattern of events.
        InvalidDefinition: What it marks is no method, or the time is none.
    """
    from kibo.model.topics import checked_pattern

    pattern = checked_pattern(name)
    return lambda method: _mark_handler(method, pattern, group, timeout_s)


def on_message(method: Function) -> Function:
    """Marks a method of a Box as the handler of messages that are sent to its instance, one at a time.

    It takes the message, a `kibo.Message`, or nothing. What it returns is the answer where the sender waits for one.
    """
    return _mark_handler(method, "", "", None)


def _mark_handler(method: Function, event: str, group: str, timeout_s: float | None) -> Function:
    function: Any = method.function if isinstance(method, Action) else method
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & (_CO_COROUTINES | _CO_GENERATOR):
        raise InvalidDefinition(
            f"{getattr(function, '__name__', function)!r} cannot handle messages",
            hint="Mark a method of the Box that is no coroutine and no generator.",
        )
    if timeout_s is not None and not is_seconds(timeout_s):
        raise InvalidDefinition(
            f"handler {function.__name__}(): timeout_s={timeout_s!r} is no time", hint="Give seconds above 0."
        )
    function.__kibo_event__ = event
    if group or timeout_s is not None:
        function.__kibo_handler__ = (group, timeout_s)
    return method


class Use:
    """A typed need. In a live box the attribute is the part that meets it; a definition has nothing there yet."""

    def __init__(self, box: type["Box"]) -> None:
        self.box = box
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    # A live box holds what meets the need in its `__dict__`, which wins over this descriptor: it defines no __set__.
    def __get__(self, owner: "Box | None", cls: type | None = None) -> Any:
        """Itself on the class; on a definition, an error that says where the part is to be found."""
        if owner is None:
            return self
        raise WrongState(
            f"{owner!r} is a definition: its {self.name} exists in an instance only",
            hint=f"Use self.{self.name} inside launch(), resume() or an action.",
            details={"need": self.box.__qualname__},
        )


def use(box: type[BoxType]) -> BoxType:
    """Declares that a Box needs another, which some part to its left in a sum must be an instance of.

    Where several are, the nearest to the left is used.

    Args:
        box: The class that is needed, or one that it inherits from.

    Returns:
        What stands for the part: in a running box the attribute is the part itself, with all its methods.

    Raises:
        InvalidDefinition: `box` is not a Box class.
    """
    if not (isinstance(box, type) and issubclass(box, Box)):
        shown = f"{type(box).__name__}(...)" if isinstance(box, Box) else repr(box)
        raise InvalidDefinition(
            f"use() takes a Box class, got {shown}", hint="Write use(Browser), not use(Browser())."
        )
    return cast(BoxType, Use(box))


class Box:
    """A skill bound to an environment: an immutable definition with a digest, which `spawn()` makes instances of.

    A subclass says what it is in its docstring (or `skill`), what it needs in `env`, `secrets`, `egress` and
    `use(...)`, what it may ask for from inside in `rights` and `quota`, what it is parametrised by in annotations, and
    what it can do in methods marked with `@action`.
    `launch()` runs once, when its state is built; `resume()` in every new instance. `Box()` itself is the empty box,
    and changes nothing that it is added to.

    Raises:
        InvalidDefinition: A parameter is missing, unknown, or not of its annotated type.
    """

    env: ClassVar[Env] = Env()
    secrets: ClassVar[Sequence[Secret]] = ()
    egress: ClassVar[Sequence[Rule]] = ()
    rights: ClassVar[Sequence[Right]] = ()
    quota: ClassVar[Quota] = Quota()
    skill: ClassVar[str] = ""
    #: Whether an action says more of its effect than the class of that.
    _kibo_marked: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        body = cls.__dict__
        if "__init__" in body or "__new__" in body:
            raise InvalidDefinition(
                f"{cls.__name__} defines __init__: a Box is made of its parameters alone",
                hint="Annotate parameters in the class (`customer: str`), and do the work in launch().",
            )
        for name, value in body.items():
            inherited = next((vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)), None)
            if isinstance(inherited, Action) and not isinstance(value, Action):
                raise InvalidDefinition(
                    f"{cls.__name__}.{name} hides an action of {cls.__mro__[1].__name__} without being one",
                    hint="Decorate it with @action.",
                )
            if isinstance(value, Action) and name != value.function.__name__:
                raise InvalidDefinition(
                    f"{cls.__name__}.{name} and its action {value.function.__name__} differ in name",
                    hint="Define it under the name that callers are to use.",
                )
        if any(isinstance(value, Action) and value.marked for value in body.values()):
            cls._kibo_marked = True
        if cls._kibo_marked:  # of a base, too: what that one's actions name may be another's here
            from kibo.box.marks import check_marks

            check_marks(cls)

    def __init__(self, *values: Any, **parameters: Any) -> None:
        if values:
            raise InvalidDefinition(
                f"the parameters of {type(self).__name__} are given by name",
                hint=f"{type(self).__name__}(name=value)",
            )
        from kibo.box.parameters import settle_parameters

        self.__dict__.update(settle_parameters(type(self), parameters))

    @staticmethod
    def __kibo_restore__(obj: "Box", parameters: Mapping[str, Any], bound: Mapping[str, "Box"]) -> None:
        """Makes `obj`, fresh from `__new__`, the live object of a box: inside it attributes may be set."""
        obj.__dict__.update(parameters)
        obj.__dict__.update(bound)
        obj.__dict__[_LIVE] = True

    def __setattr__(self, name: str, value: object) -> None:
        if not self.__dict__.get(_LIVE):
            raise AttributeError(
                f"{self!r} is a definition and immutable; attributes are set inside launch(), resume() and actions"
            )
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        if not self.__dict__.get(_LIVE):
            raise AttributeError(f"{self!r} is a definition and immutable")
        object.__delattr__(self, name)

    @property
    def digest(self) -> str:
        """Names the definition: equal in every process and on every machine that defines the same.

        Taken when it is first asked for; globals that the code uses and that change afterwards do not change it.
        """
        from kibo.box.sums import digest_of

        return digest_of(self)

    def __add__(self, other: "Box") -> "Box":
        """The two composed: the left launches first, and the right sees it through `use`.

        Raises:
            CompositionConflict: Both define an action, service, file or setting, and differently.
        """
        from kibo.box.sums import add

        return add(self, other) if is_box(other) else NotImplemented

    def __or__(self, other: "Box") -> "Box":
        """As `+`, and where the two conflict the right side wins."""
        from kibo.box.sums import override

        return override(self, other) if is_box(other) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Box):
            return self is other
        if self.__dict__.get(_LIVE) or other.__dict__.get(_LIVE):
            return False  # live objects are not values
        return self.digest == other.digest

    def __hash__(self) -> int:
        return id(self) if self.__dict__.get(_LIVE) else hash(self.digest)

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_")]
        return f"{type(self).__name__}({'...' if self.__dict__.get(_LIVE) else ', '.join(shown)})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def spawn(
        self,
        *,
        name: str = "",
        progress: "Callable[[Any], None] | None" = None,
        record: bool | str = False,
        replay: "str | PathLike[str] | None" = None,
    ) -> Any:
        """Makes an instance, forked from this box's cached state, which is built first where it is not cached.

        Args:
            name: What to call it on the command line, besides its id.
            progress: Told of each step where something has to be built, as `kibo.runtime.images.environment` and
                `kibo.runtime.states` describe them.
            record: Whether to record what it asks servers for, and what it gets, ``launch()`` and ``resume()``
                included; or a name for the recording, which replaces one that has it. It is there once the instance
                has ended. What is forked of it is recorded up to then.
            replay: The name of a recording, or the path of an exported one, that answers in place of servers.

        Returns:
            A proxy that offers the box's actions. It is a context manager; unreferenced, it is destroyed. From cached
            state it takes some 2.5 ms; to build one, from 0.2 s up to what its steps take.

        Raises:
            UnmetNeed: A part needs a Box that nothing to its left is.
            BuildFailed: The environment or a `launch()` failed; nothing is left. Retry once the cause is gone.
            HostUnsupported: This host cannot isolate as asked; the hint is the remedy.
            RecordingUnknown, RecordingInvalid: There is no recording to replay, or it is damaged.
        """
        from kibo.box.spawning import current

        tape = {"record": record, "replay": replay} if record or replay is not None else {}
        return current().spawn(self, name=name, progress=progress, **tape)

    def tools(self, format: "Format" = "openai") -> list[dict[str, Any]]:
        """Returns the actions as a model provider's tool definitions: names, guidance and arguments, nothing else.

        Args:
            format: ``"openai"``, ``"anthropic"`` or ``"mcp"``.

        Returns:
            One definition an action, as JSON would hold it, in the order of the sum.

        Raises:
            UnmetNeed: As for `spawn`.
            InvalidInput: `format` is not one of openai, anthropic, mcp.
        """
        from kibo.box.tools import tools

        return tools(self, format)


def is_box(value: object) -> bool:
    """Whether a value is a definition.

    Raises:
        InvalidDefinition: It is a Box class: the parentheses were forgotten.
    """
    if isinstance(value, type) and issubclass(value, Box):
        raise InvalidDefinition(
            f"{value.__name__} is a class, not a box", hint=f"Write {value.__name__}() with its parameters."
        )
    return isinstance(value, Box)
