"""Services that run in a thread, a predictor that answers when it may, and cues for a run."""

import socket
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn
from PIL import Image

from clfa.data.atomic import write_json
from clfa.data.training_cues import CUES, TrainingCue, TrainingCues
from clfa.model.heatmap import Heatmap
from clfa.serving.predictor import Prediction, Predictor
from clfa.serving.service import build_app
from clfa.serving.state import Service


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def serving(run):
    """`with serving(run) as start: client = start(predictor, keys)`; they end with the block."""
    servers, clients = [], []

    def start(predictor=None, keys=None, label_studio=False):
        service = Service(run, lambda: predictor or Predictor(run))
        app = build_app(service, keys, label_studio)
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", free_port(), log_config=None, access_log=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}", timeout=60)
        clients.append(client)
        for _ in range(600):
            try:
                if client.get("/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        client.service = service
        return client

    try:
        yield start
    finally:
        for client in clients:
            client.close()
        for server, thread in servers:
            server.should_exit = True
            thread.join()


class Slow:
    """A predictor that answers when it may, and remembers what it was asked."""

    def __init__(self, may=True):
        self.may, self.asked = threading.Event(), []
        if may:
            self.may.set()

    def __call__(self, posts):
        self.asked.append([post.get("text") for post in posts])
        assert self.may.wait(30)
        return [Prediction("yes", {"no": 0.0, "yes": 1.0}) for _ in posts]

    def alignment(self, post):
        self.asked.append([post.get("text")])
        assert self.may.wait(30)
        return Heatmap(
            ["word1"], np.array([[[0.5, -0.25], [0.0, 1.0]]], np.float32), Image.new("RGB", (2, 2)), "yes", 1.0
        )


def write_cues(run):
    """Two cues, as an evaluation would leave them; the first one hints at `yes`."""
    cues = [TrainingCue("word1 word2", 1, [3, 41]), TrainingCue("word3", 0, [28, 4])]
    write_json(run / CUES, TrainingCues(["no", "yes"], [150, 150], cues).described())
