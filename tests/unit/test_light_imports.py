"""What a box imports of Kibo stays light, and the package itself lazy."""

import json
import subprocess
import sys

import kibo
from kibo.model import errors, ids

HEAVY = ["anyio", "asyncio", "dataclasses", "hashlib", "inspect", "msgspec", "pydantic", "cloudpickle"]
HEAVY += ["sqlalchemy", "alembic", "h11", "cryptography", "ssl"]

#: What the guest imports of `box` and `model`.
IN_THE_GUEST = (
    "kibo kibo.box kibo.box.define kibo.box.env kibo.box.policy kibo.box.results kibo.box.ship".split()
)
IN_THE_GUEST += "kibo.box.spawning kibo.model.errors kibo.model.ids kibo.model.limits".split()


def loaded_by(statement: str) -> set[str]:
    # -S: what the environment's own start-up files import is not ours.
    program = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; {statement}; import json; "
    program += "print(json.dumps([m for m in sys.modules]))"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_what_a_box_imports_brings_in_nothing_heavy():
    modules = loaded_by(f"import {', '.join(IN_THE_GUEST)}")
    assert modules.isdisjoint(HEAVY)


def test_using_the_public_names_brings_in_nothing_heavy():
    modules = loaded_by(
        "from kibo import Box, Env, Secret, Allow, action, use\nclass B(Box):\n  env = Env(apt=['x'])"
    )
    assert modules.isdisjoint(HEAVY)
    assert "kibo.box.plan" not in modules


def test_what_a_spawn_or_coroutines_need_brings_no_database():
    modules = loaded_by("from kibo import aio, wiring; wiring.Runtime, aio.spawn")
    assert modules.isdisjoint(["sqlalchemy", "alembic", "kibo.branch.history", "h11", "cryptography"])


def test_what_a_spawn_needs_brings_nothing_that_builds_and_no_event_loop():
    modules = loaded_by("import kibo.runtime.instance, kibo.runtime.session, kibo.runtime.states")
    assert modules.isdisjoint(["anyio", "asyncio", "sqlalchemy", "pydantic", "urllib.request", "rich"])
    building = {
        f"kibo.runtime.images.{name}" for name in ("bounds", "building", "inside", "interpreter", "recipes")
    }
    assert modules.isdisjoint(building)


def test_what_reads_records_brings_no_other_databases_types_no_mapper_and_no_migrations():
    modules = loaded_by("import kibo.wiring.branches")
    assert "sqlalchemy.dialects.sqlite" in modules
    assert modules.isdisjoint(["alembic", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql"])
    assert modules.isdisjoint(["sqlalchemy.orm", "sqlalchemy.ext.asyncio", "pydantic", "anyio"])


def test_what_reads_records_brings_nothing_that_runs_a_box_or_a_branch():
    modules = loaded_by("import kibo.wiring.records")
    assert modules.isdisjoint(["kibo.runtime.instance", "kibo.runtime.session", "kibo.runtime.states"])
    assert modules.isdisjoint(["kibo.branch.family", "kibo.branch.running", "kibo.branch.standing"])
    assert not {name for name in modules if name.startswith(("kibo.context", "kibo.hub.post"))}


def test_a_branch_brings_contexts_and_recordings_once_it_has_them():
    modules = loaded_by("import kibo.wiring.branches")
    assert not {name for name in modules if name.startswith("kibo.context")}
    assert modules.isdisjoint(
        ["kibo.effects.matching", "kibo.effects.recording_file", "kibo.branch.comparing"]
    )


def test_what_orders_a_gateway_about_brings_nothing_that_serves():
    modules = loaded_by("import kibo.effects.forwarder")
    assert modules.isdisjoint(["asyncio", "ssl", "cryptography", "h11", "h2", "sqlalchemy", "urllib.request"])
    assert not {name for name in modules if name.startswith("kibo.store")}


def test_a_gateway_brings_its_ledger_and_clients_of_vaults_once_somebody_needs_them():
    modules = loaded_by("import kibo.effects.gateway")
    assert modules.isdisjoint(["sqlalchemy", "alembic", "urllib.request", "pydantic", "anyio"])


def test_commands_that_list_bring_nothing_that_runs_or_draws():
    of_instances = loaded_by("import kibo.cli.ps")
    assert of_instances.isdisjoint(
        ["rich", "sqlalchemy", "asyncio", "kibo.runtime.instance", "kibo.box.plan"]
    )
    of_runs = loaded_by("import kibo.cli.runs, kibo.wiring.records")
    assert of_runs.isdisjoint(
        ["rich", "kibo.runtime.instance", "kibo.branch.running", "kibo.wiring.carrying"]
    )


def test_importing_the_package_alone_defines_nothing():
    assert "kibo.box.define" not in loaded_by("import kibo")


def test_every_public_name_is_there():
    for name in kibo.__all__:
        assert getattr(kibo, name) is not None


def test_every_error_has_its_own_code_a_surface_and_survives_pickling():
    import pickle

    def family(cls):
        yield cls
        for sub in cls.__subclasses__():
            yield from family(sub)

    # Those of Kibo: programs may have their own, and another test may have loaded one.
    classes = [cls for cls in family(errors.KiboError) if cls.__module__.partition(".")[0] == "kibo"]
    assert len(classes) > 30
    assert len({cls.code for cls in classes}) == len(classes)
    for cls in classes:
        error = cls("message", hint="hint", details={"a": 1})
        again = pickle.loads(pickle.dumps(error))
        assert (again.to_dict(), str(again)) == (error.to_dict(), "message\n  hint: hint")
        assert errors.surface(error).exit_code in range(1, 126)
        assert cls.retry in ("never", "safe", "after", "unknown")
        assert cls.__name__ in errors.__doc__, f"{cls.__name__} is missing from the drawing"


def test_ids_carry_their_prefix_and_are_not_repeated_after_a_fork():
    import os

    made = {ids.InstanceId.new() for _ in range(1000)}
    assert len(made) == 1000
    assert all(ids.InstanceId.parse(one) == one for one in made)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ids.InstanceId.new().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert theirs not in {ids.InstanceId.new() for _ in range(1000)}
