"""Clients for locust: each sends one post after the other (POST /predict/one), or, with CLFA_RATE, so many a second.

CLFA_POSTS is a CSV file with the columns text and image (a path).
"""

import base64
import csv
import itertools
import os
from pathlib import Path

from locust import FastHttpUser, constant, constant_throughput, task

with open(os.environ["CLFA_POSTS"], newline="", encoding="utf-8") as file:
    POSTS = [
        {"text": row["text"], "image": base64.b64encode(Path(row["image"]).read_bytes()).decode()}
        for row in csv.DictReader(file)
    ]
NEXT = itertools.cycle(POSTS)
RATE = float(os.environ.get("CLFA_RATE", "0"))


class Client(FastHttpUser):
    """One of them."""

    wait_time = constant_throughput(RATE) if RATE else constant(0)

    @task
    def ask(self) -> None:
        """One post; being refused as too much is an answer."""
        with self.client.post("/predict/one", json=next(NEXT), catch_response=True) as answer:
            if answer.status_code in (429, 503):
                answer.success()
