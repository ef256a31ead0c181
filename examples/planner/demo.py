"""A box that delegates: it spawns workers, tries two ways of a thing in branches of its own, and says how far it is.

Run it: ``python -m examples.planner.demo``
"""

from __future__ import annotations

from kibo import Box, MayFork, MaySpawn, Quota, action, me


class Counter(Box):
    """Counts words, and remembers how many it has seen."""

    skip_short: bool = False

    def launch(self) -> None:
        """Begins at nothing."""
        self.seen = 0

    @action
    def count(self, text: str) -> int:
        """Add a text's words, and return how many there are in all."""
        self.seen += sum(len(word) > 3 or not self.skip_short for word in text.split())
        return self.seen


class Planner(Box):
    """Has texts counted by boxes that it spawns itself."""

    rights = [MaySpawn(Counter), MayFork()]
    quota = Quota(instances=4, branches=4)

    @action
    def total(self, texts: list[str]) -> list[int]:
        """Count each text in a box of its own, and return the numbers."""
        numbers = []
        for done, text in enumerate(texts):
            with me.spawn(Counter, skip_short=True) as counter:
                numbers.append(counter.count(text))
            me.progress({"done": done + 1, "of": len(texts)})
        return numbers

    @action
    def longest(self, beginning: str, endings: list[str]) -> int:
        """Try each ending after the same beginning, keep the one with the most words, and return how many it has."""
        with me.branch("find the longest text") as main:
            counter = main.spawn(Counter)
            counter.count(beginning)
            tries = main.fork(len(endings))
            counts = [attempt[counter].count(ending) for attempt, ending in zip(tries, endings, strict=True)]
            tries[counts.index(max(counts))].commit()
            return int(counter.count(""))


def main() -> None:
    """Runs it, and shows what came of it."""
    with Planner().spawn() as planner:
        print("words:", planner.total(["to be or not to be", "that is the question"]))
        print("progress:", planner.progress)
        print("the longest:", planner.longest("whether it is nobler", ["to suffer", "in the mind to suffer"]))
        print(
            "from a shell:", planner.exec('kibo-box call spawn --json \'{"box": "Anything"}\'').stderr.strip()
        )


if __name__ == "__main__":
    main()
