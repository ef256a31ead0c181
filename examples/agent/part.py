"""What the scripted model says: three characters who mend the repository of `examples/fix_tests`."""

from __future__ import annotations

from examples.agent.scripted import Script
from examples.fix_tests.strategies import READ

#: How each goes about it: the system message, by a phrase of which the script knows who is speaking.
CHARACTERS = {
    "careful": "You are careful: you read a failure, mend its cause, and run the tests again.",
    "hasty": "You are hasty: you change what looks wrong and say that it works.",
    "curious": "You are curious: you look at everything before you touch anything.",
}

SCRIPT: Script = {
    "You are careful": [
        [("report", {})],
        [("read", {"path": "prices/money.py"}), ("read", {"path": "prices/basket.py"})],
        [("edit", {"path": "prices/money.py", "old": "    return int(float(text) * 100)\n", "new": READ})],
        [("edit", {"path": "prices/money.py", "old": "{cents % 100}", "new": "{cents % 100:02}"})],
        [("edit", {"path": "prices/basket.py", "old": "lines[1:]", "new": "lines"})],
        [("failures", {})],
        "All tests pass: reading is exact and takes thousands, cents have two digits, every line counts.",
    ],
    "You are hasty": [
        [("edit", {"path": "prices/basket.py", "old": "lines[2:]", "new": "lines"})],
        [("edit", {"path": "prices/basket.py", "old": "cents - cents * percent", "new": "cents * percent"})],
        "It works now.",
    ],
    "You are curious": [
        *([("exec", {"command": f"sed -n {n}p prices/*.py"})] for n in range(1, 25)),
        "I have read it all, and understand it.",
    ],
}
