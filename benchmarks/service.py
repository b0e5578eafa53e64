"""The service under load by locust (a public tool, in a virtual environment of its own), on loopback.

python benchmarks/service.py RUN --posts POSTS.csv --json docs/results/service.json

Posts a second at 1, 4 and 16 clients, with common batches and with batches of one; then eight times what it can do, for 30
seconds: how it answers, how its memory grows, how soon a single post is answered again. Clients and service share the cores.
"""

import argparse
import csv
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

CLIENTS, SECONDS = (1, 4, 16), 20
OVERLOAD, OVERLOAD_SECONDS, OVERLOAD_CLIENTS = 8, 30, 200
CHILD = "from clfa.serving import batching; batching.BATCH = {batch}; from clfa.cli import run; run()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--posts", required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "locust"], check=True, stderr=subprocess.DEVNULL)
        locust = f"{folder}/bin/locust"
        rows = []
        for clients in CLIENTS:
            row: dict[str, float] = {"clients": clients}
            for name, batch in (("batched", 8), ("single", 1)):
                with _service(options.run, batch) as (address, _):
                    row[name], row[f"{name}_p95_ms"] = _load(locust, options.posts, address, clients, SECONDS)
            rows.append(row | {"ratio": round(row["batched"] / row["single"], 2)})
        with _service(options.run, 8) as (address, process):
            result = _overload(locust, options.posts, address, process, rows[-1]["batched"])
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with the clients",
        "throughput": rows,
        "overload": result,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _service(run: str, batch: int) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    arguments = [sys.executable, "-c", CHILD.format(batch=batch), "serve", run, "--port", str(port)]
    process, address = subprocess.Popen(arguments, stderr=subprocess.DEVNULL), f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health/ready")
                break
            except OSError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _load(locust: str, posts: str, address: str, clients: int, seconds: int, rate: float = 0) -> tuple[float, float]:
    """Posts answered a second, and the 95th percentile of milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("service_load.py")
        command = [locust, "-f", script, "--headless", "-u", str(clients), "-r", str(clients), "-t", f"{seconds}s"]
        environment = os.environ | {"CLFA_POSTS": posts, "CLFA_RATE": str(rate)}
        subprocess.run(
            [*command, "--host", address, "--csv", f"{folder}/load", "--only-summary", "--exit-code-on-error", "3"],
            check=True,
            env=environment,
            capture_output=True,
        )
        with open(f"{folder}/load_stats.csv", newline="") as file:
            total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
        return round(float(total["Requests/s"]), 1), float(total["95%"])


def _overload(locust: str, posts: str, address: str, process: subprocess.Popen, capacity: float) -> dict:
    _load(locust, posts, address, 16, 10)
    memory = _memory(process)
    asked = OVERLOAD * capacity
    rate, p95 = _load(locust, posts, address, OVERLOAD_CLIENTS, OVERLOAD_SECONDS, asked / OVERLOAD_CLIENTS)
    began = time.monotonic()
    with open(posts, newline="", encoding="utf-8") as file:
        body = json.dumps({"text": next(csv.DictReader(file))["text"]}).encode()
    request = urllib.request.Request(f"{address}/predict/one", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).read()
    recovered = time.monotonic() - began
    statuses: dict[str, int] = {}
    for line in urllib.request.urlopen(f"{address}/metrics").read().decode().splitlines():
        if line.startswith("clfa_requests_total{") and 'route="/predict/one"' in line:
            status = line.partition('status="')[2][:3]
            statuses[status] = statuses.get(status, 0) + int(float(line.split()[-1]))
    return {
        "asked_a_second": round(asked, 1),
        "answered_or_refused_a_second": rate,
        "p95_ms": p95,
        "statuses": statuses,
        "memory_before_mb": memory,
        "memory_growth_mb": round(_memory(process) - memory, 1),
        "next_answer_seconds": round(recovered, 3),
    }


def _memory(process: subprocess.Popen) -> float:
    """MB that it has had at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 1)


if __name__ == "__main__":
    main()
