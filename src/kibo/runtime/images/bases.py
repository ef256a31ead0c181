"""The bases that are not the host: Debian by mmdebstrap, images by their layers, and what every box adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kibo.runtime.images import debian, host_tree, libraries, registry, unpacking
from kibo.runtime.images.inside import Inside
from kibo.runtime.images.sandbox import Bind
from kibo.runtime.images.settings import without_credentials
from kibo.runtime.images.steps import GENERATION, digest_of
from kibo.runtime.layers.normalise import Cleaning
from kibo.runtime.layers.store import Built, Layer
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.store.locking import holding

if TYPE_CHECKING:
    from kibo.runtime.images.running import StepRun

#: A download's progress is told every so many bytes.
_TELL_BYTES = 16 << 20


def make_debian(run: StepRun) -> Built:
    """Bootstraps a Debian suite into a directory and seals it.

    Raises:
        BuildFailed: mmdebstrap failed.
        LockMismatch: Its packages are not those of the lock.
    """
    target = run.entry.path / "target"
    _show_target(run, target)
    run.settings.add_network()
    run.settings.add_apt(whole=False)
    sources = without_credentials(debian.host_sources(run.step.spec["suite"]))
    recipe = debian.bootstrap(run.step.spec["suite"], sources, run.locked)
    resolved = run.run(run.sandbox(), recipe)
    return Built((_seal(run, run.entry, target, "packages"),), resolved)


def make_image(run: StepRun) -> Built:
    """Pulls an image: its layers, each verified, unpacked and sealed; those that are here already are not pulled.

    Raises:
        BuildFailed: The registry does not give it, or gives something else than its digests say.
    """
    reference = run.step.spec["reference"]
    source = registry.open_source(reference)
    image = registry.fetch_image(source, (run.locked or {}).get("manifest", ""))
    layers = tuple(_make_image_layer(run, source, digest) for digest, _media_type in image.layers)
    return Built(layers, {"manifest": image.digest, "variables": image.variables})


def add_box_places(inside: Inside) -> dict[str, Any]:
    """The step on top of every such base: the box's user, its directories, and mount points."""
    inside.keep_mount_points()
    host_tree.write_box_places(Path("/"))
    for path in libraries.lend():
        print(f"lent {path}", flush=True)
    return {}


def _make_image_layer(run: StepRun, source: registry.Source, digest: str) -> Layer:
    """Brings one layer of an image into the store; images share layers, so each has a key of its own."""
    key = digest_of([GENERATION, "image layer", digest])
    store = run.worker.store
    with holding(run.worker.home / "locks" / f"{key}.build"):
        found = store.find(key)
        if found is not None:
            return found.layers[0]
        run.tell(f"pulling {digest}")
        entry = TemporaryEntry.create(run.worker.home, "image")
        try:
            archive = entry.path / "archive"
            told = 0

            def progress(count: int) -> None:
                nonlocal told
                if count - told >= _TELL_BYTES:
                    told = count
                    run.tell(f"{digest[:19]}: {count >> 20} MiB")

            registry.fetch_layer(source, digest, archive, progress)
            archive.chmod(0o644)
            part = type(run)(run.worker, entry, run.step, None)
            target = entry.path / "target"
            _show_target(part, target)
            part.settings.binds.append(Bind(archive, "/run/kibo/archive"))
            part.run(part.sandbox(), unpacking.unpack("/run/kibo/archive", debian.TARGET))
            archive.unlink()
            layer = _seal(run, entry, target, "nothing")
            store.record(key, Built((layer,)))
            return layer
        finally:
            entry.remove()


def _show_target(run: StepRun, target: Path) -> None:
    target.mkdir(mode=0o755)
    run.own(target)
    run.settings.binds.append(Bind(target, debian.TARGET, writable=True))


def _seal(run: StepRun, entry: TemporaryEntry, target: Path, cleaning: Cleaning) -> Layer:
    label = run.step.label
    return run.worker.store.seal(entry, target, inside=run.worker.inside, cleaning=cleaning, step=label)
