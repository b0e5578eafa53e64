"""The service keeps to its OpenAPI schema, whatever a public fuzzer sends."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import Slow, write_cues

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requests_made_from_the_schema_and_against_it_are_answered_as_the_schema_says(run, served):
    write_cues(run)
    client = served(Slow())
    fuzzer = Path(sys.executable).with_name("schemathesis")
    end = subprocess.run(
        [str(fuzzer), "--config-file", str(CONFIG), "run", f"{client.base_url}/openapi.json",
         "--max-examples", "30", "--generation-deterministic"],
        capture_output=True, text=True, cwd=CONFIG.parent,
    )  # fmt: skip
    assert end.returncode == 0, end.stdout[-6000:] + end.stderr[-2000:]
    operations = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", end.stdout)
    assert operations, end.stdout[-3000:]
    assert len(set(operations.groups())) == 1, "an operation was left out: " + operations[0]
    metrics = client.get("/metrics").text
    assert 'status="5' not in metrics, metrics
