"""AutoGluon MultiModal on a table of posts: both encoders fine-tuned, late fusion by an MLP, everything else its defaults.

Started in the folder of the table, with the environment of autogluon.multimodal (see run.py).
"""

import measure


def main() -> None:
    options = measure.options(__doc__).parse_args()
    text, image, epochs, batch = options.text, options.image, options.epochs, options.batch
    seed, work = options.seed, str(options.work)

    # user code begins
    import pandas as pd
    from autogluon.multimodal import MultiModalPredictor

    posts = pd.read_csv("posts.csv").drop(columns="id")
    train, validation, test = (
        posts[posts.split == name].drop(columns="split") for name in ("train", "validation", "test")
    )
    predictor = MultiModalPredictor(label="label", path=work)
    predictor.fit(
        train,
        tuning_data=validation,
        seed=seed,
        hyperparameters={
            "model.names": ["hf_text", "timm_image", "fusion_mlp"],
            "model.hf_text.checkpoint_name": text,
            "model.hf_text.pooling_mode": "mean",
            "model.timm_image.checkpoint_name": image,
            "optim.max_epochs": epochs,
            "env.batch_size": batch,
            "env.per_gpu_batch_size": batch,
        },
    )
    predicted = predictor.predict(test, as_pandas=True)
    # user code ends

    from autogluon.multimodal import __version__

    measure.record(options.out, __version__, list(test.label), list(predicted))


if __name__ == "__main__":
    main()
