"""A post sent to `clfa serve` as a form with its image as a file, by httpx; and what a refusal says.

python examples/http/form.py http://127.0.0.1:8000 storm.jpg "what a lovely day" [KEY]
"""

import sys
from pathlib import Path

import httpx


def main(address: str, image: str, text: str, key: str = "") -> None:
    with httpx.Client(base_url=address, headers={"X-API-Key": key} if key else {}, timeout=60) as service:
        file = (Path(image).name, Path(image).read_bytes())
        answer = service.post("/predict/form", data={"text": text}, files={"image": file})
        answer.raise_for_status()
        for name, probability in answer.json()["probabilities"].items():
            print(f"{name:12} {probability:.6f}")
        refused = service.post("/predict/form", files={"image": ("no.png", b"no image")})
        print(refused.status_code, refused.json()["message"], sep=": ")


if __name__ == "__main__":
    main(*sys.argv[1:])
