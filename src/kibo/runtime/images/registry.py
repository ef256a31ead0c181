"""Images from an OCI registry or an OCI layout on disk, every byte verified against its digest.

Sources: the OCI distribution, image and layout specifications (github.com/opencontainers); Docker's older media types
are read too. Only anonymous access: credentials of the host's are never used.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final, Protocol

from kibo.model.errors import BuildFailed, InvalidDefinition

_CHUNK_BYTES: Final = 1 << 20
#: Manifests and configurations are some kilobytes; a registry that sends more is not sending one.
_MAX_DOCUMENT_BYTES: Final = 8 << 20
_TIMEOUT_S: Final = 60.0
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_DEFAULT_HOST: Final = "registry-1.docker.io"


class Source(Protocol):
    """Where an image's documents and layers come from."""

    def resolve(self) -> str:
        """Returns the digest that the reference names now."""

    def open(self, digest: str, *, manifest: bool = False) -> IO[bytes]:
        """Opens one content by its digest. What is read from it is not yet verified."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image for this machine.

    Attributes:
        digest: The digest of its manifest, ``sha256:...``.
        layers: The digests and media types of its layers, lowest first.
        config: Its configuration document.
    """

    digest: str
    layers: tuple[tuple[str, str], ...]
    config: dict[str, Any]

    @property
    def variables(self) -> dict[str, str]:
        """The environment that the image sets."""
        pairs = (entry.partition("=") for entry in self.config.get("config", {}).get("Env") or ())
        return {name: value for name, _, value in pairs}


class Layout:
    """An OCI layout on disk, ``oci:dir:<path>[:<tag>]``."""

    def __init__(self, path: Path, tag: str) -> None:
        self._path = path
        self._tag = tag

    def resolve(self) -> str:
        """See Source."""
        try:
            index = json.loads((self._path / "index.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidDefinition(
                f"{self._path} is not an OCI layout: it has no index.json",
                hint='Write base="oci:dir:/path/to/layout:tag", with the path of a directory that holds one.',
                details={"path": str(self._path)},
            ) from error
        entries = index["manifests"]
        if self._tag:
            names = "org.opencontainers.image.ref.name"
            entries = [entry for entry in entries if entry.get("annotations", {}).get(names) == self._tag]
        if len(entries) != 1:
            raise InvalidDefinition(
                f"{self._path} has {len(entries)} images that {self._tag or 'no tag'} names",
                hint="Name one by its tag: oci:dir:PATH:TAG.",
                details={"path": str(self._path), "tag": self._tag},
            )
        return str(entries[0]["digest"])

    def open(self, digest: str, *, manifest: bool = False) -> IO[bytes]:
        """See Source."""
        algorithm, _, name = digest.partition(":")
        _check_digest(digest)
        return open(self._path / "blobs" / algorithm / name, "rb")


class Registry:
    """An image in a registry, reached by the distribution protocol."""

    def __init__(self, host: str, repository: str, reference: str) -> None:
        self._repository = repository
        self._reference = reference
        plain = host.split(":")[0] in ("localhost", "127.0.0.1", "[::1]")
        self._schemes = ("http://", "https://") if plain else ("https://",)
        self._root = f"{self._schemes[0]}{host}/v2/{repository}"
        self._token = ""

    def resolve(self) -> str:
        """See Source."""
        if ":" in self._reference:
            return self._reference
        with self._get(f"manifests/{self._reference}", (*_INDEXES, *_MANIFESTS)) as reply:
            return "sha256:" + hashlib.sha256(_read_document(reply)).hexdigest()

    def open(self, digest: str, *, manifest: bool = False) -> IO[bytes]:
        """See Source."""
        _check_digest(digest)
        return self._get(f"manifests/{digest}" if manifest else f"blobs/{digest}", (*_INDEXES, *_MANIFESTS))

    def _get(self, path: str, accept: tuple[str, ...], *, again: bool = True) -> IO[bytes]:
        request = urllib.request.Request(f"{self._root}/{path}", headers={"Accept": ", ".join(accept)})
        if self._token:
            # Not redirected: storage behind a registry must not see the token, nor does it want it.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            reply: IO[bytes] = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
            return reply
        except urllib.error.HTTPError as error:
            with error:
                challenge = error.headers.get("WWW-Authenticate", "")
                if error.code == 401 and again and challenge.lower().startswith("bearer "):
                    self._token = self._ask_token(challenge)
                    return self._get(path, accept, again=False)
                raise self._failed(path, f"it answered {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise self._failed(path, str(getattr(error, "reason", error))) from error

    def _ask_token(self, challenge: str) -> str:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.get("realm", "")
        if not realm.startswith(self._schemes):
            # A file of this host's, say: what it holds would be sent on to the registry.
            raise self._failed("a token", f"it asks for one to be fetched from {realm!r}")
        query = urllib.parse.urlencode(
            {name: fields[name] for name in ("service", "scope") if name in fields}
        )
        try:
            with urllib.request.urlopen(f"{realm}?{query}", timeout=_TIMEOUT_S) as reply:
                answer = dict(json.loads(_read_document(reply)))
        except (OSError, HTTPException, ValueError, TypeError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the answer too
            raise self._failed("a token", f"{realm}: {error}") from error
        return str(answer.get("token") or answer.get("access_token"))

    def _failed(self, path: str, why: str) -> BuildFailed:
        return BuildFailed(
            f"the registry did not give {path} of {self._repository}: {why}",
            step=f"oci: {self._repository}",
            hint="Check the reference, and that the registry is up and gives it without signing in.",
            details={"repository": self._repository, "reference": self._reference},
        )


def open_source(reference: str) -> Source:
    """Reads what follows ``oci:`` in a base.

    Raises:
        InvalidDefinition: It is not a reference.
    """
    if reference.startswith("dir:"):
        path, _, tag = reference.removeprefix("dir:").partition(":")
        return Layout(Path(path), tag)
    match = re.fullmatch(
        r"(?:(?P<host>[^/]*[.:][^/]*|localhost)/)?(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
        r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
        reference,
    )
    if match is None:
        raise InvalidDefinition(
            f"{reference!r} is not an image reference",
            hint='Write base="oci:registry.example/name:tag", or @sha256:... in place of the tag; '
            '"oci:dir:/path/to/layout:tag" for an image on this host.',
            details={"reference": reference},
        )
    host, name = match["host"] or _DEFAULT_HOST, match["name"]
    if match["host"] is None and "/" not in name:
        name = f"library/{name}"
    return Registry(host, name, match["digest"] or match["tag"] or "latest")


def fetch_image(source: Source, digest: str = "") -> Image:
    """Reads an image's manifest and configuration, for this machine where there are several.

    Args:
        source: Where it is.
        digest: The manifest to take, or empty for what the reference names now.

    Raises:
        BuildFailed: It cannot be had, or is not what its digest says.
    """
    with _told():
        digest = digest or source.resolve()
        manifest = _document(source, digest, manifest=True)
        if "manifests" in manifest:
            digest = _choose(manifest["manifests"])
            manifest = _document(source, digest, manifest=True)
        config = _document(source, manifest["config"]["digest"])
        layers = tuple((str(layer["digest"]), str(layer["mediaType"])) for layer in manifest["layers"])
    return Image(digest, layers, config)


@contextmanager
def _told() -> Iterator[None]:
    """Turns what goes wrong with a source's content into an error that says so.

    Raises:
        BuildFailed: It stopped coming, or is not what an image has there.
    """
    try:
        yield
    except (OSError, HTTPException) as error:
        raise BuildFailed(
            f"the image stopped coming: {error}",
            hint="Build again: what has arrived whole is kept.",
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildFailed(
            f"it has no manifest of an image: {type(error).__name__}: {error}",
            hint="Is that reference an image? Something else answers there.",
        ) from error


def _choose(entries: list[dict[str, Any]]) -> str:
    wanted = _ARCHITECTURE.get(platform.machine(), platform.machine())
    for entry in entries:
        place = entry.get("platform", {})
        if place.get("os", "linux") == "linux" and place.get("architecture", wanted) == wanted:
            return str(entry["digest"])
    raise BuildFailed(
        f"the image has no variant for linux/{wanted}", hint="Choose an image that is built for it."
    )


def _document(source: Source, digest: str, *, manifest: bool = False) -> dict[str, Any]:
    with source.open(digest, manifest=manifest) as stream:
        data = _read_document(stream)
    _verify(digest, hashlib.sha256(data).hexdigest())
    return dict(json.loads(data))


def _read_document(stream: IO[bytes]) -> bytes:
    data = stream.read(_MAX_DOCUMENT_BYTES + 1)
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise BuildFailed(
            "the registry sent a document that is too large to be one",
            hint="Is that reference an image? Something else answers there.",
            details={"bytes": len(data)},
        )
    return data


def fetch_layer(source: Source, digest: str, target: Path, progress: Callable[[int], None]) -> None:
    """Copies a layer to a file and verifies it.

    Args:
        source: Where it is.
        digest: Its digest.
        target: The file to write.
        progress: Called with the number of bytes so far.

    Raises:
        BuildFailed: What came is not what the digest says, or it stopped coming.
    """
    hasher = hashlib.sha256()
    count = 0
    with _told():
        stream = source.open(digest)
    with stream, open(target, "wb") as file:
        for chunk in _chunks(stream):
            hasher.update(chunk)
            file.write(chunk)
            count += len(chunk)
            progress(count)
    _verify(digest, hasher.hexdigest())


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while True:
        with _told():
            chunk = stream.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _check_digest(digest: str) -> None:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise BuildFailed(f"{digest!r} is not a digest that Kibo can verify", hint="Only sha256 is known.")


def _verify(digest: str, found: str) -> None:
    if digest != f"sha256:{found}":
        raise BuildFailed(
            f"content that is named {digest} has the digest sha256:{found}",
            hint="The registry, a proxy or the disk changed it; nothing of it was used.",
            details={"expected": digest, "actual": f"sha256:{found}"},
        )
