"""The boxes that are measured."""

import os
import time

from kibo import Box, action


class Echo(Box):
    """Says back what it was told: the least that a box can do."""

    @action
    def echo(self, text: str) -> str:
        """Return the text."""
        return text


#: Defined once, as a program's boxes are. What making a definition anew costs is a figure of its own.
ECHO = Echo()


class Timed(Box):
    """Says when it began."""

    @action
    def begun(self) -> float:
        """Return the time, by the clock that all processes of the host have in common."""
        return time.monotonic()

    @action
    def write(self, text: str) -> None:
        """Write a file."""
        with open("/work/written", "w") as file:
            file.write(text)


class Stateful(Box):
    """Holds some state in memory."""

    megabytes: int

    def launch(self) -> None:
        self.turns = 0
        self.data = [bytes(1000) + str(number).encode() for number in range(self.megabytes * 1000)]

    @action
    def turn(self) -> int:
        """Change a little of it."""
        self.turns += 1
        return self.turns


class Writer(Stateful):
    """Writes and reads files as well."""

    @action
    def write(self, path: str, text: str) -> None:
        """Write a file."""
        with open(path, "w") as file:
            file.write(text)

    @action
    def spread(self, count: int, files: int) -> None:
        """Write a number of times to a number of files, 1,000 a directory."""
        for number in range(files):
            if number % 1000 == 0:
                os.makedirs(f"many/{number // 1000}")
        for number in range(count):
            with open(f"many/{number % files // 1000}/{number % files}", "w") as file:
                file.write(str(number))

    @action(effect="read")
    def reading(self, path: str, count: int) -> float:
        """Return the seconds that some reads of a file take."""
        start = time.perf_counter()
        for _ in range(count):
            with open(path, "rb") as file:
                file.read()
        return time.perf_counter() - start

    @action
    def write_for_ever(self, path: str) -> None:
        """Write the time into a file, over and over."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        while True:
            os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 0)

    @action
    def edit(self, line: int, digit: int) -> None:
        """Change one line of a program."""
        with open("program.txt") as file:
            lines = file.readlines()
        lines[line] = f"{digit}\n"
        with open("program.txt", "w") as file:
            file.writelines(lines)

    @action(effect="read")
    def evaluate(self) -> int:
        """Return how many lines of the program are what they should be."""
        with open("program.txt") as file:
            return sum(int(line) == number % 10 for number, line in enumerate(file))
