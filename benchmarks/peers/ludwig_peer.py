"""Ludwig on a table of posts: both encoders fine-tuned, its concatenation as the fusion, everything else its defaults.

Started in the folder of the table, with the environment of ludwig (see run.py).
"""

import measure


def main() -> None:
    options = measure.options(__doc__).parse_args()
    text, image, epochs, batch = options.text, options.image, options.epochs, options.batch
    seed, work = options.seed, str(options.work)

    # user code begins
    import pandas as pd
    from ludwig.api import LudwigModel

    text_encoder = {
        "type": "auto_transformer",
        "pretrained_model_name_or_path": text,
        "trainable": True,
        "reduce_output": "mean",
    }
    image_encoder = {"type": "timm", "model_name": f"local-dir:{image}", "trainable": True}
    preprocessing = {"height": 96, "width": 96, "num_channels": 3, "standardize_image": "imagenet1k"}
    config = {
        "input_features": [
            {"name": "text", "type": "text", "encoder": text_encoder},
            {"name": "image", "type": "image", "encoder": image_encoder, "preprocessing": preprocessing},
        ],
        "output_features": [{"name": "label", "type": "category"}],
        "trainer": {
            "epochs": epochs,
            "batch_size": batch,
            "learning_rate": 1e-4,
            "learning_rate_scheduler": {"warmup_fraction": 0.1, "decay": "linear"},
        },
    }
    posts = pd.read_csv("posts.csv")
    train, validation, test = (posts[posts.split == name] for name in ("train", "validation", "test"))
    model = LudwigModel(config)
    model.train(training_set=train, validation_set=validation, random_seed=seed, output_directory=work)
    predictions, _ = model.predict(dataset=test)
    # user code ends

    from ludwig import __version__

    measure.record(options.out, __version__, list(test.label), list(predictions["label_predictions"]))


if __name__ == "__main__":
    main()
