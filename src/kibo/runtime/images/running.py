"""One step that runs in a sandbox: its root, its settings, its log, and the layer that it leaves."""

from __future__ import annotations

import base64
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kibo.model.errors import BuildFailed, HostUnsupported, InvalidDefinition, KiboError, LockMismatch
from kibo.model.limits import MAX_ERROR_TEXT_BYTES
from kibo.runtime.idmap import ROOT_BASE
from kibo.runtime.images import bases, copying, recipes
from kibo.runtime.images.inside import Inside, Refusal
from kibo.runtime.images.ownership import move_ids
from kibo.runtime.images.places import NODE_PATH, NPM_HOME, PIP_HOME, PYTHON_HOME
from kibo.runtime.images.sandbox import Bind, Overlay, Sandbox
from kibo.runtime.images.settings import Settings
from kibo.runtime.images.steps import Step
from kibo.runtime.layers.beneath import beneath
from kibo.runtime.layers.normalise import EPOCH_S, Cleaning
from kibo.runtime.layers.store import Built, disk_full
from kibo.runtime.layers.temporary import TemporaryEntry, remove_tree
from kibo.runtime.remedies import of_build

if TYPE_CHECKING:
    from kibo.runtime.images.work import Worker

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STEP_PATH: Final = f"{PIP_HOME}/bin:{NPM_HOME}/bin:{_SYSTEM_PATH}:{PYTHON_HOME}/bin"
_DPKG: Final = "/var/lib/dpkg"
_CLEANING: Final[dict[str, Cleaning]] = {"run": "command", "files": "nothing", "boxroot": "nothing"}
#: What a step's programs may leave in the layers that are not theirs to change.
_NOT_THE_STEPS: Final = ("opt/kibo/python", "opt/kibo/site")


class StepRun:
    """Makes one step's layer.

    Args:
        worker: Gives the layers below, the id map and the way for events.
        entry: The work in progress that holds all that the step writes.
        step: What to make.
        locked: What the lock records for it, or None.
    """

    def __init__(
        self, worker: Worker, entry: TemporaryEntry, step: Step, locked: dict[str, Any] | None
    ) -> None:
        self.worker = worker
        self.entry = entry
        self.step = step
        self.locked: dict[str, Any] | None = locked["resolved"] if locked else None
        self.log_path = entry.path / "log"
        self._partial = b""
        stage = entry.path / "stage"
        stage.mkdir(mode=0o755, exist_ok=True)
        entry.path.chmod(0o755)  # its parent keeps everyone else out
        self.settings = Settings(stage)

    def make(self) -> Built:
        """Runs the step and seals what it left.

        Raises:
            BuildFailed: A program of the step failed; carries the end of its log and the log's path.
            LockMismatch: The step would install something else than the lock records.
            HostUnsupported: This host, or this user on it, cannot do the step.
        """
        if self.step.kind == "debian":
            return bases.make_debian(self)
        if self.step.kind == "oci":
            return bases.make_image(self)
        recipe = self._recipe()
        sandbox = self.sandbox()
        resolved = self.run(sandbox, recipe)
        tree = self._gather(sandbox)
        cleaning = _CLEANING.get(self.step.kind, "packages")
        label = self.step.label
        layer = self.worker.store.seal(
            self.entry, tree, inside=self.worker.inside, cleaning=cleaning, step=label
        )
        return Built((layer,), resolved)

    def run(self, sandbox: Sandbox, recipe: Callable[[Inside], dict[str, Any]]) -> dict[str, Any]:
        """Runs a recipe in a sandbox with its output logged and streamed; turns a refusal into the error for it."""
        with open(self.log_path, "wb") as log:

            def on_output(chunk: bytes) -> None:
                log.write(chunk)
                log.flush()
                self._stream(chunk)

            try:
                resolved = sandbox.run(recipe, on_output)
            except Refusal as refusal:
                log.flush()
                raise self._error(refusal) from None
            if self._partial:
                self._stream(b"\n")
        return resolved

    def tell(self, text: str) -> None:
        """Sends a line of Kibo's own among the step's output."""
        self.worker.emit({"event": "output", "step": self.step.label, "text": text})

    def own(self, path: Path) -> None:
        """Gives a path to the root inside."""
        if self.worker.idmap.kind == "root":
            os.chown(path, ROOT_BASE, ROOT_BASE)

    def sandbox(self) -> Sandbox:
        """Puts the step's root together: the layers below, the interpreter, and on the host's base the host."""
        below = self.worker.lowers(self.step.below)
        tools = [key for key, step in self.worker.steps.items() if step.kind == "interpreter"]
        lowers = [path for _, path in (*self.worker.lowers(tuple(tools)), *below)]
        overlays = [Overlay("/", tuple(lowers))]
        if self.step.host_usr:
            writable = self.worker.idmap.kind == "root"
            layers = [path for step, path in below if step.kind != "host"]
            usr = tuple(path / "usr" for path in layers if (path / "usr").is_dir())
            overlays.append(Overlay("/usr", usr, "/usr", writable))
            if writable and os.path.isdir(_DPKG):
                place = _DPKG.lstrip("/")
                dpkg = tuple(path / place for path in layers if (path / place).is_dir())
                overlays.append(Overlay(_DPKG, dpkg, _DPKG))
        # With pip packages the guest's interpreter is the one that has them, as later in the box.
        has_pip = any(step.kind == "pip" for step, _ in below)
        variables = {
            "PATH": f"{PYTHON_HOME}/bin:{_STEP_PATH}" if has_pip else _STEP_PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(EPOCH_S),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.settings.variables,
        }
        if any(step.kind == "npm" for step, _ in below):
            variables["NODE_PATH"] = NODE_PATH  # as later in the box
        bounds = self.worker.bounds
        return Sandbox(self.entry, self.worker.idmap, overlays, self.settings.binds, variables, bounds)

    def _recipe(self) -> recipes.Recipe:
        """Chooses what the step runs, and gives it the settings that it needs."""
        spec, settings = self.step.spec, self.settings
        if self.step.kind == "boxroot":
            return bases.add_box_places
        if self.step.kind == "files":
            return copying.put(self._stage_files())
        settings.add_network()
        match self.step.kind:
            case "apt":
                self._refuse_host_apt()
                settings.add_apt(whole=self.step.host_usr)
                return recipes.apt(spec["packages"], self.locked)
            case "pip":
                settings.add_pip()
                return recipes.pip(spec["requirements"], self._show_pip(), self.locked)
            case "npm":
                settings.add_npm()
                return recipes.npm(spec["packages"], self.locked)
            case "run":
                settings.add_apt(whole=self.step.host_usr)
                settings.add_pip()
                settings.add_npm()
                return recipes.command(spec["command"], spec["variables"])
            case other:
                raise ValueError(f"no way to build a step of kind {other}")

    def _refuse_host_apt(self) -> None:
        if self.step.host_usr and self.worker.idmap.kind != "root" and not self.step.part:
            tools = " ".join(self.step.spec["packages"])
            raise HostUnsupported(
                f"{tools} is not installed, and only root can bring it along in a layer",
                hint=f"Ask for it on this host: `apt install {tools}`.",
                details={"missing": tools, "step": self.step.label},
            )
        if self.step.host_usr and self.worker.idmap.kind != "root":
            raise HostUnsupported(
                'apt packages on base="host" need root: only root can show the host\'s files with other owners',
                hint='Use base="debian:bookworm" for this Env, or run as root.',
                details={"missing": "idmapped-mounts", "step": self.step.label},
            )

    def _show_pip(self) -> str:
        """Gives the sandbox a pip that the running interpreter can run. Returns its place inside."""
        found = importlib.util.find_spec("pip")
        if found is not None and found.submodule_search_locations:
            self.settings.binds.append(
                Bind(Path(next(iter(found.submodule_search_locations))), "/run/kibo/pip/pip")
            )
            return "/run/kibo/pip/pip"
        bundled = importlib.util.find_spec("ensurepip")
        places = [Path("/usr/share/python-wheels")]
        if bundled is not None and bundled.origin is not None:
            places.insert(0, Path(bundled.origin).parent / "_bundled")
        for place in places:
            for wheel in sorted(place.glob("pip-*.whl")):
                self.settings.binds.append(Bind(wheel, f"/run/kibo/{wheel.name}"))
                return f"/run/kibo/{wheel.name}/pip"
        raise HostUnsupported(
            "there is no pip for this Python, and Env.pip needs it",
            hint="Install it beside kibo: `python -m ensurepip`, or `apt install python3-pip`.",
            details={"missing": "pip"},
        )

    def _stage_files(self) -> list[tuple[str, Path]]:
        """Copies the sources where the sandbox may read them, and checks that they are what the key says."""
        stage = self.settings.stage / "files"
        stage.mkdir()
        sources = []
        for index, item in enumerate(self.step.payload["files"]):
            staged = stage / str(index)
            if "content" in item:
                staged.write_bytes(base64.b64decode(item["content"]))
            elif os.path.isdir(item["path"]):
                shutil.copytree(item["path"], staged, symlinks=True)
            else:
                shutil.copyfile(item["path"], staged)
                shutil.copymode(item["path"], staged)
            description = copying.describe_source(item["to"], os.fspath(staged))
            if description != self.step.spec["files"][index]:
                raise InvalidDefinition(
                    f"the source of {item['to']} changed while it was built",
                    hint="Build again once it is at rest.",
                )
            sources.append((item["to"], Path(f"/run/kibo/files/{index}")))
        if self.worker.idmap.kind == "root":
            move_ids(stage, ROOT_BASE)
        self.settings.binds.append(Bind(stage, "/run/kibo/files"))
        return sources

    def _gather(self, sandbox: Sandbox) -> Path:
        """Moves what was written below /usr and the package database into the one tree of the step's layer."""
        tree = sandbox.upper(0)
        for name in _NOT_THE_STEPS:
            if (place := beneath(tree, name)) is not None:
                remove_tree(place)
        own = beneath(tree, "opt/kibo")
        if own is not None and own.is_dir() and not own.is_symlink() and not any(own.iterdir()):
            own.rmdir()
        if self.step.kind == "boxroot":
            # /run was a file system in memory while the step ran, so what belongs in the layer's is made here.
            self._make_directories(tree, "run/kibo")
        _prune(tree, [bind.target for bind in sandbox.binds], sandbox.overlays[0].lowers)
        for index, overlay in enumerate(sandbox.overlays[1:], 1):
            if not overlay.writable or not any(sandbox.upper(index).iterdir()):
                continue
            target = self._make_directories(tree, overlay.target.lstrip("/"))
            target.rmdir()
            os.rename(sandbox.upper(index), target)
        return tree

    def _make_directories(self, tree: Path, name: str) -> Path:
        """Makes a directory and its parents in a finished tree, owned by the root inside.

        Raises:
            BuildFailed: The step put something else where one of them must be.
        """
        path = tree
        for part in name.split("/"):
            path = path / part
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise BuildFailed(
                    f"{self.step.label}: the step replaced /{path.relative_to(tree)}, which must be a directory",
                    step=self.step.label,
                    hint="Leave the system's own directories where they are.",
                )
            if not path.exists():
                path.mkdir(mode=0o755)
                self.own(path)
        return path

    def _stream(self, chunk: bytes) -> None:
        """Sends whole lines as they come; a carriage return also ends one, as progress meters use it."""
        *lines, self._partial = (
            (self._partial + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        for line in lines:
            text = line.decode(errors="replace")
            self.tell(text)

    def _error(self, refusal: Refusal) -> KiboError:
        """Makes the error for a step that could not go on, and keeps its log."""
        kept = self.worker.home / "logs" / f"{self.step.kind}-{self.step.key[:12]}.log"
        shutil.copyfile(self.log_path, kept)
        log = kept.read_bytes()
        tail = b"\n".join(log[-MAX_ERROR_TEXT_BYTES:].splitlines()[-40:]).decode(errors="replace")
        details = {"step": self.step.label, **refusal.details}
        if refusal.code == "unsupported":
            hint = "Point KIBO_HOME at a directory on ext4, xfs, btrfs or tmpfs."
            return HostUnsupported(
                f"the file system of {self.worker.home} cannot hold the writable side of an overlay",
                hint=hint,
                details={**details, "missing": "overlay-upper", "path": str(self.worker.home)},
            )
        if refusal.code == "locked":
            hint = (
                "A mirror keeps the newest packages alone: build from one that has what the lock names, such as "
                "Debian's snapshot archive, or without --locked to record what there is now."
            )
            return LockMismatch(refusal.message, hint=hint, details=details)
        if "No space left on device" in tail or "Errno 28" in refusal.message:
            return disk_full(self.worker.home)
        hint = of_build(tail) or "Its log says why; the next build starts again at this step."
        if refusal.code == "timeout":
            hint = "Does it wait for an answer, or a network that is not there? Raise Limits.step_s if it needs longer."
        if refusal.code == "memory":
            hint = "Raise Limits.memory_bytes, or have the step use less, such as fewer jobs at once."
        if refusal.code == "missing":
            hint = f"Add the package that has {refusal.details['program']!r} to Env.apt, or choose a base that has it."
        return BuildFailed(
            f"{self.step.label}: {refusal.message}",
            step=self.step.label,
            log_tail=tail,
            log_path=str(kept),
            hint=hint,
            details=details,
        )


def _prune(tree: Path, targets: list[str], lowers: tuple[Path, ...]) -> None:
    """Removes directories that are in the layer only because a setting was mounted below them.

    Which settings there are is this host's business, and must not show in the layer.
    """
    for target in targets:
        for parent in list(Path(target.lstrip("/")).parents)[:-1]:
            path = beneath(tree, os.fspath(parent))
            copied = any((place := beneath(lower, os.fspath(parent))) and place.is_dir() for lower in lowers)
            if path is None or not copied or path.is_symlink() or not path.is_dir() or any(path.iterdir()):
                break
            if "user.overlay.opaque" in os.listxattr(path):
                break  # emptied by the step itself
            path.rmdir()
