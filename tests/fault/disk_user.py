"""A user's program on a state directory that may be full or unfit: tells what came of each thing, as JSON."""

import json
import os
import sys

from kibo import Box, Env, KiboError, action
from kibo.model.ids import DeltaId
from kibo.runtime.instance import Instance
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime


class Plain(Box):
    @action
    def hello(self) -> str:
        """Greet."""
        return "hello"


class Large(Box):
    env = Env(run=["dd if=/dev/zero of=/srv/large bs=1M count=512"])


class Stepped(Box):
    env = Env(run=["echo kept > /srv/kept"])


def fork_busy() -> dict[str, object]:
    """Forks an instance that writes to the disk and in which something runs: once without room, once with."""
    states = runtime().states()
    spawned = run(states.fork(Blocking(), states.ensure(Plain()), upper=DeltaId.new()))
    with Instance(spawned) as box, box.popen("while :; do echo tick; sleep 0.01; done") as process:
        home = os.environ["KIBO_HOME"]
        room = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        box.exec(["dd", "if=/dev/urandom", "of=big", "bs=1M", f"count={room * 6 // 10 >> 20}"])
        before = os.listdir(f"{home}/deltas")
        try:
            box.fork()
        except KiboError as error:
            answer = error.to_dict()
        assert os.listdir(f"{home}/deltas") == before, "something was left"
        for _ in range(200):
            assert process.stdout.read(5) == b"tick\n"
        assert box.hello() == "hello"
        box.exec("truncate -s 5M big")
        with box.fork()[0] as fork:
            assert fork.exec("sha256sum < big").stdout == box.exec("sha256sum < big").stdout
        assert len(os.listdir(f"{home}/deltas")) == len(before) + 1
    return answer


def main() -> None:
    for word in sys.argv[1:]:
        if word == "fork":
            print(json.dumps(fork_busy()), flush=True)
            continue
        box = {"plain": Plain, "large": Large, "stepped": Stepped}[word]()
        try:
            with box.spawn():
                answer = {"code": "ok"}
        except KiboError as error:
            answer = error.to_dict()
        print(json.dumps(answer), flush=True)
    runtime().close()


if __name__ == "__main__":
    main()
