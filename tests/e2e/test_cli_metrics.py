"""`kibo up --metrics`, as Prometheus reads it: well formed, exact after a restart, with nothing of the user's in it."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from e2e.test_cli import BOXES, Cli, cli, home, warm  # noqa: F401 - fixtures
from patience import eventually

pytestmark = pytest.mark.e2e

RUNS = f"{BOXES.with_name('run_boxes.py')}:Worker"
CONFIDENTIAL = "4111-1111"


@contextmanager
def up(cli: Cli) -> Iterator[str]:  # noqa: F811
    """Has a process carry runs out during a block. Gives where its metrics are."""
    with cli.start("up", "--metrics", "0", "--json") as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["metrics"]
        finally:
            process.send_signal(signal.SIGTERM)


def scraped(url: str) -> tuple[dict[str, dict[tuple[str, ...], float]], str]:
    """Reads metrics as strictly as OpenMetrics wants them: by name and by the values of the labels, sorted by name."""
    wanted = urllib.request.Request(
        f"{url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(wanted, timeout=20) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found, text


def test_metrics_are_what_the_store_holds_whoever_counts_it(cli: Cli) -> None:  # noqa: F811
    submit = ("submit", "--tenant", "ada", "--name", CONFIDENTIAL)
    cli(*submit, RUNS, "double", "21")
    cli(*submit, RUNS, "choose", CONFIDENTIAL)
    endless = cli("submit", "--tenant", "bob", RUNS, "work").stdout.strip()
    with up(cli) as url:
        eventually(lambda: scraped(url)[0]["kibo_runs"] == {("running", "bob"): 1.0})
        found, text = scraped(url)
        assert found["kibo_run_events_total"] == {
            ("submit", "queued", "ada"): 2, ("place", "starting", "ada"): 2, ("begin", "running", "ada"): 2,
            ("succeed", "done", "ada"): 1, ("fail", "failed", "ada"): 1,
            ("submit", "queued", "bob"): 1, ("place", "starting", "bob"): 1, ("begin", "running", "bob"): 1,
        }  # fmt: skip
        assert found["kibo_run_queue_seconds_count"] == {("ada",): 2, ("bob",): 1}
        assert found["kibo_run_total_seconds_count"] == {("ada",): 2, ("bob",): 0}
        assert found["kibo_run_action_seconds_bucket"]["+Inf", "ada"] == 2
        calls = {("none", "call", state): 1.0 for state in ("done", "failed", "sending")}
        eventually(lambda: scraped(url)[0]["kibo_effects"] == calls)  # counted less often than asked for
        caches = found["kibo_spawn_cache_requests_total"]
        assert caches["state", "miss"] >= 1
        assert sum(caches["ahead", result] for result in ("hit", "miss")) == 3
        assert CONFIDENTIAL not in text
        assert endless not in text
    cli("cancel", endless)
    with up(cli) as url:
        eventually(lambda: not scraped(url)[0].get("kibo_runs"))
        again, _ = scraped(url)
        before = found["kibo_run_events_total"]
        assert {
            key: count for key, count in again["kibo_run_events_total"].items() if key in before
        } == before
        assert again["kibo_run_events_total"]["cancel", "cancelling", "bob"] == 1


def test_an_address_that_is_none_or_taken_is_said_before_anything_begins(cli: Cli) -> None:  # noqa: F811
    assert cli.json("up", "--metrics", "example.org:80", status=65)["error"]["code"] == "input.invalid"


def test_without_the_library_it_says_how_to_get_it(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['prometheus_client'] = None\n")
    variables = cli.variables | {"PYTHONPATH": f"{hidden}:{cli.variables['PYTHONPATH']}"}
    done = cli.start("up", "--metrics", "0", env=variables, stderr=subprocess.STDOUT)
    told = done.communicate(timeout=50)[0]
    assert "kibo[metrics]" in told
    assert done.returncode == 65
