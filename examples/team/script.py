"""What stands in for models: two manners of writing the same two functions, and what a reviewer checks of them."""

PARTS = ["parse", "show"]

DRAFTS = {
    "careful": {
        "parse": """\
UNITS = {"h": 3600, "m": 60, "s": 1}

def parse(text):
    return sum(int(word[:-1]) * UNITS[word[-1]] for word in text.split())
""",
        "show": """\
def show(seconds):
    hours, rest = divmod(seconds, 3600)
    parts = [(hours, "h"), (rest // 60, "m"), (rest % 60, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
""",
    },
    "hasty": {
        "parse": """\
def parse(text):
    return int(text[:-1]) * {"h": 3600, "m": 60, "s": 1}[text[-1]]
""",
        "show": """\
def show(seconds):
    return f"{seconds // 60}m {seconds % 60}s"
""",
    },
}

CHECKS = [
    "parse('90s') == 90",
    "parse('1h 2m') == 3720",
    "show(0) == '0s'",
    "show(parse('1h 1m 1s')) == '1h 1m 1s'",
]
