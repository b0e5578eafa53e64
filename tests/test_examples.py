"""Each file of examples/, run by the command that examples/README.md gives for it: it answers as `Predictor` does."""

import ast
import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from label_studio_sdk.label_interface import LabelInterface
from servers import free_port

from clfa import Predictor
from clfa.cli import main
from clfa.data.congruity import posts
from clfa.data.records import load_manifest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()
DOCKERFILE = (EXAMPLES / "service/Dockerfile").read_text()
FIRST = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
COMMANDS = {
    re.search(r"examples/(\S+)", command)[1]: command
    for command in re.findall(r"^\|[^|]*\| `([^`]*)` \|", README, re.MULTILINE)
}
IN_ORDER = """
import shlex, sys
from clfa.cli import main
for command in sys.argv[1:]:
    assert main(shlex.split(command)[1:]) == 0, command
"""
"""Commands in one process, so that PyTorch is imported once."""
CLOSE = 2e-5
"""Of probabilities: an export is compared with its run, and six digits are printed."""
trained = pytest.mark.slow  # whichever is the first waits for the run


def environment(**changes):
    """With this Python's commands before all others, and no network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | changes


def said(folder, name, port=None, **changes):
    """What the command of an example prints."""
    command = COMMANDS[name].replace(":8000", f":{port}")
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-3000:])
    return done.stdout


def table_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the first commands of the README leave, of fewer posts."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(EXAMPLES)
    spec = importlib.util.spec_from_file_location("write_posts", EXAMPLES / "tutorial/write_posts.py")
    write_posts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write_posts)
    write_posts.main(folder / "posts", 120)
    command = [sys.executable, "-c", IN_ORDER, *FIRST[2:4]]  # fit, export
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """`Predictor` of the posts of new.csv, that is the examples are compared with."""
    rows = [row | {"image": folder / "posts" / row["image"]} for row in table_of(folder / "posts/new.csv")]
    answers = Predictor(folder / "model")(rows)
    assert len({answer.predicted for answer in answers}) > 3
    return answers


@pytest.fixture(scope="module")
def one(folder):
    """Probabilities of the post that is asked for alone: `one(text, image)`."""
    predictor = Predictor(folder / "model")
    image = folder / "posts/images/new-congruity-000000.png"
    return lambda text, with_image=True: predictor.one({"text": text, "image": image if with_image else None})


@pytest.fixture(scope="module")
def service(folder):
    """The port of the README's service, which ends with 0."""
    port = free_port()
    command = shlex.split(FIRST[4].removesuffix(" &").replace("8000", str(port)))
    process = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def wait_for(address, process):
    for _ in range(600):
        assert process.poll() is None
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready")


@pytest.fixture(scope="module")
def chosen(folder):
    """What choose.sh says; its posts are in more/to_label."""
    return said(folder, "annotation/choose.sh")


def assert_lines(lines, expected, between="\t"):
    """A line a post: the class, its probability."""
    for line, answer in zip(lines, expected, strict=True):
        predicted, probability = line.split(between)[:2]
        assert predicted == answer.predicted
        assert float(probability) == pytest.approx(answer.probabilities[predicted], abs=CLOSE)


# without a run


def test_each_file_has_a_command_that_is_run_here():
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".sh")}
    assert COMMANDS.keys() == files
    tests = Path(__file__).read_text()
    assert not [name for name in files if f'"{name}"' not in tests]


def test_links_and_extras_of_the_readme_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (EXAMPLES / target).exists(), target
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {extra for extras in re.findall(r"clfa\[([a-z,]+)\]", README) for extra in extras.split(",")}
    assert needed <= project.keys()
    for path in EXAMPLES.rglob("*.py"):
        assert f"python examples/{path.relative_to(EXAMPLES)}" in path.read_text().partition('"""\n\n')[0]


def test_what_kubernetes_starts_is_the_service():
    deployment, service = yaml.safe_load_all((EXAMPLES / "service/kubernetes.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    port = container["ports"][0]["containerPort"]
    assert service["spec"]["ports"][0]["targetPort"] == port
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    probes = {container[name]["httpGet"]["port"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {port}
    assert container["command"] + container["args"] == entry_point()[:-1] + ["/run/secrets/clfa/keys"]
    assert container["volumeMounts"][0]["mountPath"] == "/run/secrets/clfa"


def entry_point():
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1])


def test_what_docker_copies_is_what_the_build_needs():
    copied = [one for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for one in line.split()[:-1]]
    assert all((ROOT / one).exists() for one in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"src", "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]} == set(copied)
    extras = re.search(r"'/src\[([a-z,]+)\]'", DOCKERFILE)[1].split(",")
    assert project["optional-dependencies"].keys() >= set(extras)


def test_what_systemd_starts_is_the_service(tmp_path, capsys):
    unit = (EXAMPLES / "service/clfa.service").read_text()
    command = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1].replace("%S", str(tmp_path)))
    assert command[0] == "clfa"
    assert main(command[1:]) == 2  # its options are those of the command; there is no model
    assert str(tmp_path / "clfa/model") in capsys.readouterr().err
    if shutil.which("systemd-analyze"):
        (tmp_path / "clfa.service").write_text(unit.replace("=clfa ", f"={Path(sys.executable).with_name('clfa')} "))
        command = ["systemd-analyze", "verify", str(tmp_path / "clfa.service")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_ray_cluster_can_be_read():
    cluster = yaml.safe_load((EXAMPLES / "ray/cluster.yaml").read_text())
    assert {"cluster_name", "provider", "auth", "head_start_ray_commands"} <= cluster.keys()


# of a run


@trained
def test_python(folder, expected, one):
    means, first, alone, embedded = said(folder, "python/predict.py").splitlines()
    for name, mean in ast.literal_eval(means.removesuffix(" in the mean")).items():
        assert mean == pytest.approx(np.mean([answer.probabilities[name] for answer in expected]), abs=1e-3)
    predicted, printed = first.split(" ", 1)
    assert predicted == expected[0].predicted
    assert ast.literal_eval(printed) == pytest.approx(expected[0].probabilities, abs=2e-6)  # of a batch, and alone
    assert alone == f"{one('this gadget is so fantastic', with_image=False).predicted} from the text alone"
    assert "(40, " in embedded


@trained
def test_pandas_and_scikit_learn(folder):
    printed = said(folder, "python/dataframe.py")
    rows = table_of(folder / "posts/held_out.csv")
    predictor = Predictor(folder / "model")
    answers = predictor([row | {"image": folder / "posts" / row["image"]} for row in rows])
    right = sum(answer.predicted == row["label"] for answer, row in zip(answers, rows))
    assert re.search(r"accuracy +(\S+) +40", printed)[1] == f"{right / 40:.3f}"
    loss = -np.mean([np.log(answer.probabilities[row["label"]]) for answer, row in zip(answers, rows)])
    assert float(re.search(r"log loss (\S+)", printed)[1]) == pytest.approx(loss, abs=2e-3)
    unsure = min(zip(answers, rows), key=lambda pair: max(pair[0].probabilities.values()))[1]
    assert unsure["id"] in printed.splitlines()[-3]


@trained
def test_onnx_where_there_is_no_pytorch(folder, expected, tmp_path):
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name={name!r})")
    *lines, last = said(folder, "onnx/predict.py", PYTHONPATH=str(tmp_path)).splitlines()
    assert_lines(lines, expected)
    assert last.endswith("neither torch nor transformers")


@trained
def test_hugging_face(folder, expected):
    *lines, last = said(folder, "hugging_face/classify.py").splitlines()
    assert_lines(lines, expected)
    logits = ast.literal_eval(last.removesuffix(" of the first"))
    odds = np.exp(list(logits.values()))
    assert list(logits) == list(expected[0].probabilities)
    assert odds / odds.sum() == pytest.approx(list(expected[0].probabilities.values()), abs=1e-4)


@trained
def test_ray(folder, expected):
    rows = (folder / "posts/new.csv").read_text().splitlines()
    (folder / "days").mkdir()
    for name, part in (("1.csv", rows[1:16]), ("2.csv", rows[16:])):
        (folder / "days" / name).write_text("\n".join([rows[0], *part, ""]))
    printed = said(folder, "ray/predict_folder.sh")
    predicted = table_of(folder / "predicted/1.csv") + table_of(folder / "predicted/2.csv")
    for row, answer in zip(predicted, expected, strict=True):
        assert row["predicted"] == answer.predicted
        assert float(row[f"probability_{answer.predicted}"]) == pytest.approx(
            answer.probabilities[answer.predicted], abs=CLOSE
        )
    assert "rows: 40" in printed
    assert predicted[0]["text"] in printed


@trained
def test_http_by_pythons_own_library(folder, expected, service):
    *lines, last = said(folder, "python/ask.py", service).splitlines()
    assert [line.strip() for line in lines] == [answer.predicted for answer in expected]
    assert ast.literal_eval(last)["probabilities"] == pytest.approx(expected[0].probabilities, abs=CLOSE)


@trained
def test_http_as_a_form(folder, expected, service):
    *lines, refused = said(folder, "http/form.py", service).splitlines()
    found = {name: float(probability) for name, probability in map(str.split, lines)}
    assert found == pytest.approx(expected[0].probabilities, abs=CLOSE)
    assert refused.startswith("422: image-format: image: not a readable image")


@trained
def test_http_with_curl(folder, expected, one, service):
    first, several, form = map(json.loads, said(folder, "http/ask.sh", service).splitlines())
    found = [first, *several["predictions"], form]
    known = [
        one("so happy with this"),
        *(one(text, with_image=False) for text in ("so happy with this", "never again")),
        expected[0],
    ]
    for answer, own in zip(found, known, strict=True):
        assert answer["predicted"] == own.predicted
        assert answer["probabilities"] == pytest.approx(own.probabilities, abs=CLOSE)


@trained
def test_open_inference_protocol(folder, expected, service):
    assert_lines(said(folder, "open_inference/ask.py", service).splitlines(), expected, " ")


@trained
def test_posts_for_label_studio_and_their_labels_back(folder, chosen, tmp_path):
    """The annotator is played; the labels come back as Label Studio exports them."""
    config = (folder / "more/to_label/label_studio.xml").read_text()
    known = {row["id"]: row["label"] for row in table_of(folder / "posts/posts.csv")}
    truth = known | {f"new-{post['id']}": post["topic"] for post in posts(40, 2)}
    tasks = json.loads((folder / "more/to_label/tasks.json").read_text())
    assert len(tasks) == 20
    assert all(task["data"]["id"] in chosen for task in tasks)
    exported = []
    for number, task in enumerate(tasks):
        choice = {"from_name": "label", "to_name": "text", "type": "choices"}
        result = [choice | {"value": {"choices": [truth[task["data"]["id"]]]}}]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": number == 0, "result": result}
        assert LabelInterface(config).validate_annotation(annotation)
        exported.append({"id": number, "data": task["data"], "annotations": [annotation], "predictions": []})
    (folder / "export.json").write_text(json.dumps(exported))
    assert said(folder, "annotation/take.py") == "120 posts had a label, 19 labels are new: posts/labelled.csv\n"
    found = {row["id"]: row["label"] for row in table_of(folder / "posts/labelled.csv")}
    labelled = {task["data"]["id"] for task in tasks[1:]}
    assert found == {id: truth[id] if id in known.keys() | labelled else "" for id in truth}
    out = tmp_path / "data"
    assert main(["import", "table", str(folder / "posts/labelled.csv"), "--unlabelled", "keep", "--out", str(out)]) == 0
    assert load_manifest(out)["splits"]["unlabelled"]["rows"] == 21


@trained
def test_label_studio_asks_the_service(folder, chosen, service):
    lines = [line.split("\t") for line in said(folder, "annotation/backend.py", service).splitlines()]
    rows = table_of(folder / "more/to_label/selected.csv")
    assert all(row["id"] in chosen for row in rows)
    predictor = Predictor(folder / "model")
    answers = predictor([row | {"image": folder / "more/to_label" / row["image"]} for row in rows])
    assert [line[0] for line in lines] == [row["id"] for row in rows]
    assert {line[3] for line in lines} == {"valid"}
    assert_lines(["\t".join(line[1:3]) for line in lines], answers)


@trained
def test_what_docker_starts_answers_who_has_a_key(folder, tmp_path):
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text("secret\n")
    given = {"/model": str(folder / "model/onnx"), "/run/secrets/keys": str(keys)}
    command = [given.get(part, part) for part in entry_point()] + ["--port", str(port)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        check = re.search(r"^HEALTHCHECK .*CMD (.*)$", DOCKERFILE, re.MULTILINE)[1].replace(":8000", f":{port}")
        assert subprocess.run(json.loads(check), env=environment(), check=False).returncode == 0
        assert said(folder, "http/ask.sh", port, KEY="secret").count("\n") == 3
        post = {"text": "so happy with this"}
        assert httpx.post(f"http://127.0.0.1:{port}/predict/one", json=post).status_code == 401
    finally:
        process.send_signal(getattr(signal, re.search(r"^STOPSIGNAL (\w+)$", DOCKERFILE, re.MULTILINE)[1]))
        assert process.wait(timeout=60) == 0


def test_what_slurm_and_kubernetes_start_is_one_run_by_several_processes():
    service, job = yaml.safe_load_all((EXAMPLES / "training/kubernetes.yaml").read_text())
    pods = job["spec"]["template"]["spec"]
    command = " ".join(pods["containers"][0]["command"])
    assert f"{pods['subdomain']}-0.{service['metadata']['name']}:29500" in command
    assert job["metadata"]["name"] == pods["subdomain"] == service["spec"]["selector"]["job-name"]
    assert f"--nnodes={job['spec']['completions']}" in command
    assert command.endswith("-m clfa train --config run.yaml --resume")
    batch = (EXAMPLES / "training/slurm.sbatch").read_text()
    assert '-m clfa train --config "$1" --resume' in batch
    subprocess.run(["bash", "-n", EXAMPLES / "training/slurm.sbatch"], check=True)
    gpus = re.search(r"--gpus-per-node=(\d)", batch)[1]
    assert f"--nproc_per_node {gpus} " in batch


@trained
@pytest.mark.timeout(600)
def test_workers_of_ray_train_one_run(folder):
    data = folder / "data"
    modalities = {
        name: {"kind": name, "encoder": f"posts/encoders/{name}", "pretrained": False, "max_length": 32}
        for name in ("text", "image")
    }
    config = {
        "data": {"path": str(data)},
        "output": str(folder / "by_ray"),
        "model": {"modalities": modalities, "dim": 32, "projection_hidden": 32, "fusion": {"layers": 1, "heads": 2}},
        "loss": {"alignment_weight": 0},
        "train": {"epochs": 2, "batch_size": 16},
    }
    command = [sys.executable, "-m", "clfa", "import", "table", "posts/posts.csv", "--out", str(data)]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert "trained by 2 workers" in said(folder, "training/ray_train.py")
    lines = (folder / "by_ray" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert (
        Predictor(folder / "by_ray").one({"text": "a lovely day"}).predicted in Predictor(folder / "model").class_names
    )
