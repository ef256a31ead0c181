"""Every error that the source raises says what to do next: a test over the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kibo.model import errors
from kibo.runtime import remedies

SOURCE = Path(errors.__file__).parents[1]


def raised_without_remedy(module: Path) -> Iterator[tuple[int, str]]:
    """Finds the errors that a module makes without a hint, and whose class has none of its own."""
    tree = ast.parse(module.read_text())
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == errors.__name__
        for name in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(name) if name in imported:
                pass
            case ast.Attribute(ast.Name("errors"), name):
                pass
            case _:
                continue
        cls = getattr(errors, name, None)  # a list of errors may well be called so too
        if not (isinstance(cls, type) and issubclass(cls, errors.KiboError)) or cls.remedy:
            continue
        hint = next((keyword.value for keyword in node.keywords if keyword.arg == "hint"), None)
        passed_on = any(keyword.arg is None for keyword in node.keywords)
        if not passed_on and (hint is None or (isinstance(hint, ast.Constant) and not hint.value)):
            yield node.lineno, ast.unparse(node)[:80]


def test_every_error_that_is_raised_says_what_to_do() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 200
    found = [
        f"{module.relative_to(SOURCE)}:{line}: {text}"
        for module in modules
        for line, text in raised_without_remedy(module)
    ]
    assert found == []


def test_an_error_without_a_remedy_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from kibo.model.errors import Denied, NotFound\n"
        "raise Denied('no')\n"
        "raise errors.NotFound('no', hint='')\n"
        "raise NotFound('no', hint='Look.')\n"
        "raise errors.Bug('no')\n"
    )
    assert [line for line, _ in raised_without_remedy(module)] == [2, 3]


def test_an_error_says_what_its_class_says_unless_it_knows_better() -> None:
    assert "report" in errors.Bug("no").hint
    assert errors.Bug("no", hint="Wait.").hint == "Wait."


@pytest.mark.parametrize(
    ("kind", "message", "remedy"),
    [
        ("ModuleNotFoundError", "No module named 'numpy'", "Env(pip="),
        ("OSError", "[Errno 28] No space left on device", "disk_bytes"),
        ("RuntimeError", "can't start new thread", "pids"),
        ("BlockingIOError", "[Errno 11] Resource temporarily unavailable", "pids"),
        ("OSError", "[Errno 24] Too many open files: 'x'", "open_files"),
        ("MemoryError", "", "memory_bytes"),
        ("OSError", "[Errno 30] Read-only file system: '/usr/x'", "/work"),
        (
            "urllib.error.URLError",
            "<urlopen error [Errno -3] Temporary failure in name resolution>",
            "egress",
        ),
    ],
)
def test_what_happens_often_in_boxes_comes_with_its_remedy(kind: str, message: str, remedy: str) -> None:
    assert remedy in remedies.of_exception(kind, message)


def test_of_other_exceptions_nothing_is_said() -> None:
    assert remedies.of_exception("ValueError", "no milk") == ""


@pytest.mark.parametrize(
    ("log", "remedy"),
    [
        ("Temporary failure resolving 'deb.example'", "network"),
        ("curl: (6) Could not resolve host: nosuch.invalid", "network"),
        ("Failed to establish a new connection: [Errno 111] Connection refused", "network"),
        ("npm error code EAI_AGAIN", "network"),
        ("SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "update-ca-certificates"),
        ("E: Unable to locate package nosuch", "apt-cache"),
        ("E: Version '1.0-1' for 'hello' was not found", "Debian's snapshot archive"),
        ("ERROR: No matching distribution found for nosuch", "pip index"),
        ("npm error code E404\nnpm error 404 Not Found - GET https://registry.example/nosuch", "npm view"),
        (
            "E: The repository 'http://deb.example nosuch Release' does not have a Release file.",
            "debian:bookworm",
        ),
        ("hello\nsh: 1: nosuch: not found\n", "Env.apt"),
    ],
)
def test_what_often_goes_wrong_in_builds_comes_with_its_remedy(log: str, remedy: str) -> None:
    assert remedy in remedies.of_build(log)


def test_of_other_logs_nothing_is_said() -> None:
    assert remedies.of_build("make: *** [all] Error 2") == ""
