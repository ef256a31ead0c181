"""Boxes defined in a script, in a module and in a notebook cell: same digests, and all of them can be sent."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

DEFINITIONS = '''
from __future__ import annotations
import json
from dataclasses import dataclass
from kibo import Allow, Box, Env, Secret, action, use

TAXES = {"AT": 10, "DE": 7}
PLACES = {"paris", "vienna", "rome", "berlin"}

@dataclass
class Receipt:
    total: int
    notes: list[str]

def with_tax(total: int) -> int:
    return total + TAXES["AT"]

class Register(Box):
    """Rings up."""
    env = Env(apt=["bc"], variables={"LANG": "C"})
    egress = [Allow("shop.example")]
    currency: str = "EUR"

    @action
    def ring(self, total: int) -> Receipt:
        if total in {1, 2, 3} or str(total) in {"a", "b", "c"}:
            return Receipt(total, sorted(PLACES))
        return Receipt(with_tax(total), [json.dumps({"c": self.currency})])

class Desk(Box):
    register = use(Register)

    @action
    def pay(self, receipt: Receipt) -> int:
        return self.register.ring(receipt.total).total

box = Register(currency="USD") + Desk()
'''

REPORT = """
import sys
from kibo.box.plan import plan
from kibo.box.ship import encode_parts
sys.stdout.write(plan({box}).digest + "\\n")
with open({blob!r}, "wb") as file:
    file.write(encode_parts(plan({box})))
"""

#: Runs as the guest would: only Kibo and the installed packages, none of the user's files.
GUEST = """
import sys
from kibo.box.define import Box
from kibo.box.schema import restore_arguments
from kibo.box.ship import decode_parts
parts = decode_parts(open(sys.argv[1], "rb").read())
live = []
for cls, params, needs in parts:
    obj = cls.__new__(cls)
    Box.__kibo_restore__(obj, params, {name: live[index] for name, index in needs.items()})
    live.append(obj)
args, _ = restore_arguments(type(live[1]), "pay", [{"total": 5, "notes": []}], {})
print(live[1].pay(*args), live[0].ring(2).notes)
"""


def python(program, *args, cwd, seed):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(cwd)}
    done = subprocess.run(
        [sys.executable, *args] if program is None else [sys.executable, "-c", program, *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def from_script(tmp, blob, seed):
    (tmp / "script.py").write_text(DEFINITIONS + REPORT.format(box="box", blob=blob))
    return python(None, "script.py", cwd=tmp, seed=seed)


def from_module(tmp, blob, seed):
    (tmp / "shopkit").mkdir()
    (tmp / "shopkit" / "__init__.py").write_text("")
    (tmp / "shopkit" / "boxes.py").write_text("# moved down a line\n" + DEFINITIONS)
    return python(
        "import shopkit.boxes\n" + REPORT.format(box="shopkit.boxes.box", blob=blob), cwd=tmp, seed=seed
    )


def from_notebook(tmp, blob, seed):
    # As IPython runs cells: each compiled under a name that is no file, in the namespace of `__main__`.
    cells = DEFINITIONS.split("\n@dataclass")
    program = f"""
        import __future__, sys, types
        flags = __future__.annotations.compiler_flag
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        for number, cell in enumerate({[cells[0], "@dataclass" + cells[1], REPORT.format(box="box", blob=blob)]!r}):
            code = compile(cell, f"<ipython-input-{{number}}>", "exec", flags, dont_inherit=True)
            exec(code, main.__dict__)
    """
    return python(textwrap.dedent(program), cwd=tmp, seed=seed)


PLACES = [from_script, from_module, from_notebook]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_box_works_in_a_guest_that_has_none_of_the_users_files(place, tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    place(home, str(tmp_path / "blob"), 1)
    printed = python(GUEST, str(tmp_path / "blob"), cwd=away, seed=9)
    assert printed == "15 ['berlin', 'paris', 'rome', 'vienna']\n"


def test_digests_are_the_same_wherever_and_however_a_box_is_defined(tmp_path):
    digests = set()
    for seed, place in enumerate(PLACES * 2):
        where = tmp_path.joinpath(str(seed), *["deep"] * seed)
        where.mkdir(parents=True)
        digests.add(place(where, str(tmp_path / "blob"), seed).strip())
    assert len(digests) == 1, digests
    assert digests.pop().startswith("b2:")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"AT": 10', '"AT": 11'),  # a global that an action uses through a function
        ("return total + TAXES", "return total - TAXES"),  # that function's code
        ('"paris"', '"lyon"'),  # a set of globals
        ("total: int\n", "total: float\n"),  # a field of the result's type
        ('"EUR"', '"CHF"'),  # a default
        ('"""Rings up."""', '"""Rings down."""'),  # the guidance
        ('apt=["bc"]', 'apt=["dc"]'),
        ('"LANG": "C"', '"LANG": "D"'),
        ("shop.example", "cafe.example"),
        ("{1, 2, 3}", "{1, 2, 4}"),
        ('currency="USD"', 'currency="CAD"'),
        ("    @action\n    def pay", "    @action(timeout_s=3)\n    def pay"),
        ("    @action\n    def pay", "    @action(effect='irreversible')\n    def pay"),
    ],
)
def test_whatever_is_defined_differently_has_another_digest(before, after):
    assert before in DEFINITIONS
    assert digest(DEFINITIONS) != digest(DEFINITIONS.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from __future__", "# a comment\n\n\nfrom __future__"),
        ('{"paris", "vienna", "rome", "berlin"}', '{"rome", "berlin", "vienna", "paris"}'),
        ('{"AT": 10, "DE": 7}', '{"DE": 7, "AT": 10}'),
        ("class Desk", "UNUSED = 3\n\nclass Desk"),
    ],
)
def test_what_defines_the_same_has_the_same_digest(before, after):
    assert before in DEFINITIONS
    assert digest(DEFINITIONS) == digest(DEFINITIONS.replace(before, after))


def digest(source):
    import types

    module = types.ModuleType("kept_in_memory")
    sys.modules["kept_in_memory"] = module
    try:
        exec(compile(source, "<memory>", "exec", dont_inherit=True), module.__dict__)
        return module.box.digest
    finally:
        del sys.modules["kept_in_memory"]


def test_sending_what_cannot_be_sent_says_so():
    source = "import threading\nfrom kibo import Box, action\nLOCK = threading.Lock()\n"
    source += "class Locked(Box):\n  @action\n  def hold(self):\n    return LOCK\n"
    import types

    from kibo.box.plan import plan
    from kibo.box.ship import encode_parts
    from kibo.model.errors import InvalidDefinition

    module = types.ModuleType("kept_in_memory")
    exec(source, module.__dict__)
    with pytest.raises(InvalidDefinition, match=r"launch\(\) or resume\(\)"):
        encode_parts(plan(module.Locked()))


def test_what_is_sent_holds_nothing_of_the_hosts_files():
    from kibo import Box, Env
    from kibo.box.plan import plan
    from kibo.box.ship import decode_parts, encode_parts

    class Configured(Box):
        env = Env(files={"/etc/app": "/home/ada/secret.toml"}, run=["build-secretly"])

    blob = encode_parts(plan(Configured()))
    assert b"secret" not in blob
    assert b"/home/ada" not in blob
    assert decode_parts(blob)[0][0].env == Env()


def test_definitions_too_large_to_send_are_refused_with_a_hint():
    from kibo import Box
    from kibo.box.plan import plan
    from kibo.box.ship import encode_parts
    from kibo.model.errors import InvalidDefinition

    class Heavy(Box):
        data: bytes

    with pytest.raises(InvalidDefinition, match=r"17 MiB; 16 fit"):
        encode_parts(plan(Heavy(data=b"x" * (17 << 20))))


def test_a_report_is_json_serialisable_errors_included():
    from kibo import Box
    from kibo.model.errors import InvalidDefinition

    class Typed(Box):
        n: int

    with pytest.raises(InvalidDefinition) as caught:
        Typed(n="x")
    assert json.loads(json.dumps(caught.value.to_dict()))["code"] == "box.definition"
