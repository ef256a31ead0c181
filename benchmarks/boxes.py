"""The boxes that are measured."""

from kibo import Box, action


class Echo(Box):
    """Says back what it was told: the least that a box can do."""

    @action
    def echo(self, text: str) -> str:
        """Return the text."""
        return text
