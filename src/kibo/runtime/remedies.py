"""What to do about the failures that programs in boxes and build steps report most often, in their own words."""

from __future__ import annotations

import re
from typing import Final

#: What an exception says in a box, with what to do about it; the first that matches decides.
_OF_EXCEPTIONS: Final = (
    (r"ModuleNotFoundError", "Bring the package along: Env(pip=[...])."),
    (r"No space left on device", "The box's own disk is full: raise Limits.disk_bytes, or write less."),
    (r"can't start new thread|BlockingIOError.*unavailable", "Raise Limits.pids, or run fewer at once."),
    (r"Too many open files", "Raise Limits.open_files, or close some."),
    (r"MemoryError", "Raise Limits.memory_bytes, or use less."),
    (
        r"Read-only file system",
        "A box writes below /work, /tmp and its home; Env.files and Env.run put things elsewhere when it is built.",
    ),
    (
        r"name resolution|Name or service not known|Network is unreachable|getaddrinfo",
        "A box has no network of its own: name the host in `egress`, and use a client that minds $http_proxy.",
    ),
)
#: The same of what build steps print.
_OF_BUILDS: Final = (
    (
        r"name resolution|failure resolving|[Cc]ould ?n[o']t resolve|Name or service not known|EAI_AGAIN|ENOTFOUND"
        r"|Network is unreachable|Failed to establish a new connection|Connection (?:refused|timed out)"
        r"|Unable to connect",
        "Build steps use this host's network: is it up, and that server within reach? Proxies and mirrors are taken"
        " from the settings of apt, pip and npm, and from $https_proxy.",
    ),
    (
        r"[Cc]ertificate.verif|CERTIFICATE_VERIFY|SELF_SIGNED|self.signed certificate|UnknownIssuer",
        "Does this host trust that server? An authority of your network's belongs in its own list"
        " (update-ca-certificates), which build steps use.",
    ),
    (
        r"Version '.*' for '.*' was not found",
        "A mirror keeps the newest packages alone: build from one that has that version, such as Debian's snapshot"
        " archive, or ask for what there is now, without --locked.",
    ),
    (
        r"Unable to locate package|has no installation candidate",
        "Is it spelled as the base's release has it? `apt-cache policy NAME` on such a system tells.",
    ),
    (
        r"No matching distribution found|Could not find a version that satisfies",
        "Is there such a package, in that version, for this Python? `pip index versions NAME` tells.",
    ),
    (
        r"npm (?:error|ERR!).*(?:404|ETARGET)",
        "Is there such a package, in that version? `npm view NAME` tells.",
    ),
    (
        r"does not have a Release file|404 +Not Found",
        "Does the mirror have that release? Debian's are named as in debian:bookworm.",
    ),
    (r": not found$", "The program is not in the box's environment: add the package that has it to Env.apt."),
    (
        r"Permission denied",
        "Programs of a step are root of the box alone: what belongs to the host stays as it is.",
    ),
)


def of_exception(kind: str, message: str) -> str:
    """Returns what to do about an exception in a box; empty where nothing is known of it."""
    return _first(_OF_EXCEPTIONS, f"{kind}: {message}")


def of_build(log: str) -> str:
    """Returns what to do about a failed build step, by the end of its log; empty where nothing is known of it."""
    return _first(_OF_BUILDS, log)


def _first(known: tuple[tuple[str, str], ...], text: str) -> str:
    return next((remedy for pattern, remedy in known if re.search(pattern, text, re.MULTILINE)), "")
