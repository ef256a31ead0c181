"""What stands on a command line, as values: boxes, arguments, durations, sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kibo import Box, action
from kibo.box.plan import plan
from kibo.cli.calls import read_arguments
from kibo.cli.output import duration, jsonable, print_json, size, visible
from kibo.cli.overview import COMMANDS, overview, summary
from kibo.cli.references import load_box
from kibo.model.durations import seconds
from kibo.model.errors import InvalidInput


class Taker(Box):
    """Takes this and that."""

    @action
    def take(
        self,
        text: str,
        number: int = 0,
        maybe: str | None = None,
        words: list[str] = [],  # noqa: B006
        facts: dict[str, int] = {},  # noqa: B006
    ) -> None:
        """Take."""


SPEC = plan(Taker()).actions["take"]


@pytest.mark.parametrize(
    ("words", "positional", "named"),
    [
        ([], [], {}),
        (["7"], ["7"], {}),
        (["7", "8"], ["7", 8], {}),
        (["text=7", "number=8"], [], {"text": "7", "number": 8}),
        (["text=a=b"], [], {"text": "a=b"}),
        (["number=1e3"], [], {"number": 1000.0}),
        (["number=many"], [], {"number": "many"}),
        (["maybe=null"], [], {"maybe": None}),
        (["maybe=nullo"], [], {"maybe": "nullo"}),
        (["text=null"], [], {"text": "null"}),
        (['{"text": "x", "number": 2}'], [], {"text": "x", "number": 2}),
        (["a", "1", "b", '["c"]'], ["a", 1, "b", ["c"]], {}),
        (['words=["c"]'], [], {"words": ["c"]}),
        (["a", "1", "b", "[]", '{"k": 1}'], ["a", 1, "b", [], {"k": 1}], {}),
        (["unknown=3"], [], {"unknown": 3}),
        (["a b=c"], ["a b=c"], {}),
    ],
)
def test_arguments_are_text_where_text_is_wanted_and_json_elsewhere(
    words: list[str], positional: list[Any], named: dict[str, Any]
) -> None:
    assert read_arguments(SPEC, words) == (positional, named)


def test_what_begins_like_json_and_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no JSON"):
        read_arguments(SPEC, ["a", "1", "b", "[c"])


def test_an_option_that_there_is_not_is_told_from_an_argument() -> None:
    with pytest.raises(InvalidInput, match="no option --timout"):
        read_arguments(SPEC, ["a", "1", "b", "[]", "{}", "--timout", "3"])
    assert read_arguments(SPEC, ["--dashes"]) == (["--dashes"], {})


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604800), ("0", 0), ("250ms", 0.25)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1", "1y", "nan", "inf", "1 h 2", "1e12"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no duration"):
        seconds(text)


def test_numbers_as_people_say_them() -> None:
    assert [duration(s) for s in (0.0021, 3.21, 42, 600, 7200, 864_000)] == [
        "2 ms", "3.2 s", "42 s", "10 min", "2 h", "10 d",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 2048, 150 * 2**20, 5 * 2**40)] == [
        "0 B", "999 B", "2.0 KiB", "150 MiB", "5120 GiB",
    ]  # fmt: skip


def test_bytes_are_base64_in_json_wherever_they_are() -> None:
    assert jsonable({"a": [b"\x00", "x"]}) == {"a": [{"base64": "AA=="}, "x"]}


def test_a_file_in_a_package_is_imported_by_its_dotted_name(tmp_path: Path) -> None:
    inner = tmp_path / "outer_for_test" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").touch()
    (inner / "words.py").write_text("WORD = 'relative'\n")
    (inner / "boxes.py").write_text(
        "from kibo import Box\nfrom .words import WORD\nclass One(Box):\n    '''One.'''\n    word: str = WORD\n"
    )
    box = load_box(f"{inner}/boxes.py:One")
    assert (type(box).__module__, box.word) == ("outer_for_test.inner.boxes", "relative")  # type: ignore[attr-defined]
    sys.path.remove(str(tmp_path))


def test_a_file_with_the_name_of_a_library_is_still_itself(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("from kibo import Box\nclass One(Box):\n    '''One.'''\n")
    assert type(load_box(f"{tmp_path}/json.py:One")).__name__ == "One"
    import json

    assert json.dumps(1) == "1"
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("reference", ["", "x", ":", "x:", ":X", "x:Y(", "x:Y)", "x:Y+", "+", "x:Y(a)b"])
def test_what_names_no_box_is_refused(reference: str) -> None:
    with pytest.raises(InvalidInput):
        load_box(reference)


def test_every_command_has_a_docstring_that_the_overview_shows() -> None:
    text = overview()
    for names in COMMANDS.values():
        for name in names:
            assert summary(name).endswith(".")
            assert name in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.txt", "plain name.txt"),
        ("größe 尺寸 🦆", "größe 尺寸 🦆"),
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x9b31m \u202egpj.exe", r"\x9b31m \u202egpj.exe"),
        (b"no \xff text".decode(errors="surrogateescape"), r"no \xff text"),
    ],
)
def test_what_a_box_wrote_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_lines_of_a_report_stay_lines() -> None:
    assert visible("a\n\tb\x1b", "\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize("name", ["plain", "größe 🦆", b"no \xff text".decode(errors="surrogateescape")])
def test_any_name_of_a_file_can_be_told_as_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": name, "data": b"raw"})
    text = capsys.readouterr().out
    text.encode()
    assert json.loads(text) == {"path": name, "data": {"base64": "cmF3"}}
