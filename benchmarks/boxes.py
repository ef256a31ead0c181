"""The boxes that are measured."""

from kibo import Box, action


class Echo(Box):
    """Says back what it was told: the least that a box can do."""

    @action
    def echo(self, text: str) -> str:
        """Return the text."""
        return text


#: Defined once, as a program's boxes are. What making a definition anew costs is a figure of its own.
ECHO = Echo()
