"""Where the layers of an environment put things in a box."""

from __future__ import annotations

from typing import Final

#: The interpreter, and what guests import besides its standard library.
PYTHON_HOME: Final = "/opt/kibo/python"
SITE: Final = "/opt/kibo/site"
PYTHON: Final = f"{PYTHON_HOME}/bin/python3"
#: Programs for boxes that may call out.
COMMANDS: Final = "/opt/kibo/bin"
#: Packages of a language.
PIP_HOME: Final = "/opt/kibo/pip"
NPM_HOME: Final = "/opt/kibo/npm"
#: Where Node looks for packages that are not beside the program which asks for them.
NODE_PATH: Final = f"{NPM_HOME}/node_modules"
