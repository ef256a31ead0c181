"""A box that has others share a directory, for whoever has the command line alone."""

from pathlib import Path

from kibo import Box, MayFork, MaySpawn, action


class Writer(Box):
    """Writes and reads files."""

    @action
    def write(self, path: str, text: str) -> None:
        """Write a file."""
        Path(path).write_text(text)

    @action
    def read(self, path: str) -> str:
        """Read a file."""
        return Path(path).read_text()


class Desk(Box):
    """Has two writers in a branch, which share /shared/notes."""

    rights = [MayFork(), MaySpawn(Writer)]

    @action
    def begin(self) -> None:
        """Begin the branch, and spawn both."""
        from kibo import me

        self.root = me.branch()
        self.ada, self.bob = (
            self.root.spawn("Writer", name=name, shared=["notes"]) for name in ("ada", "bob")
        )

    @action
    def note(self, text: str) -> None:
        """Have one of them write."""
        self.ada.write("/shared/notes/note", text)

    @action
    def noted(self) -> str:
        """Have the other read."""
        return str(self.bob.read("/shared/notes/note"))
