"""`croissant.json` of a dataset directory: what it holds, for whoever reads Croissant 1.0 (MLCommons 2024).

Licence, authors and address are not known to an import: add them before you publish a data set.
"""

from collections.abc import Mapping
from typing import Any

NAMES = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    **{name: f"cr:{name}" for name in NAMES},
}
"""The one that the specification asks for."""
LABELS = "labels"


def croissant(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata, as JSON-LD: a file and a set of records for each split, and the classes by their numbers.

    Args:
        manifest: the content of `dataset.json`.
    """
    splits = manifest["splits"]
    counts = ", ".join(f"{described['rows']:,} posts of {name}" for name, described in splits.items())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest["name"],
        "description": f"Posts of text and image: {counts}. Classes: {', '.join(manifest['labels'])}. Imported by clfa "
        f"{manifest['clfa_version']}; texts {manifest['text']}.",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": f"{name}.parquet",
                "name": f"{name}.parquet",
                "contentUrl": f"{name}.parquet",
                "encodingFormat": "application/x-parquet",
                "sha256": described["sha256"],
            }
            for name, described in splits.items()
        ],
        "recordSet": [_classes(manifest["labels"]), *(_records(name, manifest) for name in splits)],
    }


def _classes(names: list[str]) -> dict[str, Any]:
    fields = {"number": "sc:Integer", "name": "sc:Text"}
    return {
        "@type": "cr:RecordSet",
        "@id": LABELS,
        "name": LABELS,
        "key": {"@id": f"{LABELS}/number"},
        "field": [
            {"@type": "cr:Field", "@id": f"{LABELS}/{name}", "name": name, "dataType": kind}
            for name, kind in fields.items()
        ],
        "data": [{f"{LABELS}/number": number, f"{LABELS}/name": name} for number, name in enumerate(names)],
    }


def _records(split: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Of a split: id, text, image as bytes of a file, label as a number, and the further columns of texts; what further
    bytes are is not known."""
    texts = [name for name, kind in manifest.get("columns", {}).items() if kind == "string"]
    more = {name: {"dataType": "sc:Text"} for name in texts}
    columns: dict[str, dict[str, Any]] = {"id": {"dataType": "sc:Text"}, "text": {"dataType": "sc:Text"}}
    if manifest["images"] == "embedded":
        columns["image"] = {"dataType": "sc:ImageObject"}
    columns["label"] = {"dataType": "sc:Integer", "references": {"field": {"@id": f"{LABELS}/number"}}}
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": name,
                "source": {
                    "fileObject": {"@id": f"{split}.parquet"},
                    "extract": {"column": name},
                    **({"transform": {"jsonPath": "bytes"}} if name == "image" else {}),
                },
                **described,
            }
            for name, described in (columns | more).items()
        ],
    }
