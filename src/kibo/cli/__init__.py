"""The command line, one command a file. `kibo --help` imports none of them: it answers in a few milliseconds."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the program that its arguments name and exits with its status."""
    from kibo.cli.standard import open_standard_streams

    open_standard_streams()
    arguments = sys.argv[1:]
    if arguments in ([], ["help"], ["-h"], ["--help"]):
        from kibo.cli.overview import overview

        sys.stdout.write(overview())
        sys.exit(0)
    if arguments in (["-V"], ["--version"]):
        from kibo import __version__

        sys.stdout.write(f"kibo {__version__}\n")
        sys.exit(0)
    from kibo.cli.application import execute

    sys.exit(execute(arguments))
