"""The models of the frontier: an adaptive one and its rivals, recipes of the same data, seeds and epochs in all."""

import dataclasses

from keras_adavit.experiments import (
    AdaptiveTraining,
    Augment,
    BudgetLoss,
    DenseTraining,
    DistillationLoss,
    GateConfig,
    ImageFolder,
    Model,
    RandomPolicy,
    Recipe,
)

DENSE_EPOCHS, ADAPTIVE_EPOCHS = 12, 8  # of a model with gates; all others train as long in one go
SIZES = {"width": 96, "depth": 6, "num_heads": 3, "mlp_ratio": 2.0, "stem": "conv"}
DATA = {"cifar10": {"image_size": 32, "patch_size": 4}, "tiny_imagenet": {"image_size": 64, "patch_size": 8}}
CROP = {"cifar10": (0.5, 1.0), "tiny_imagenet": (0.35, 1.0)}  # of a small photo much is needed
SUBLAYERS = {"heads": None, "blocks": True, "tokens": False}
HEADS = {"heads": "full", "blocks": False, "tokens": False}
ALL = {"heads": "full", "blocks": True, "tokens": True}


def rivals(data, folder, seed, start):
    """Recipes by name.

    Args:
        data: `"cifar10"` or `"tiny_imagenet"`.
        folder: Folder of its images, with `train` and `val`.
        seed: Seed of everything.
        start: The dense model (.keras) that gates are added to, trained by the recipe `start`.

    Returns:
        A dict; those that need `start` come after it.
    """
    sizes = {**SIZES, "patch_size": DATA[data]["patch_size"]}
    base = Recipe(
        name=data,
        data=ImageFolder(
            path=str(folder),
            image_size=DATA[data]["image_size"],
            crop_fraction=1.0,
            augment=Augment(crop_scale=CROP[data]),
            check_images=False,
        ),
        model=Model(**sizes),
        gates=GateConfig(tokens=True, heads=None, blocks=False, temperature=1.0, token_threshold=0.5),
        budget=BudgetLoss(macs_target=0.5),
        dense=DenseTraining(epochs=DENSE_EPOCHS, learning_rate=1e-3, label_smoothing=0.1, drop_path=0.05),
        adaptive=AdaptiveTraining(
            epochs=ADAPTIVE_EPOCHS,
            learning_rate=5e-4,
            gate_learning_rate=5e-3,
            warmup=0.05,
            budget_ramp=0.3,
            label_smoothing=0.1,
            calibrate=True,
        ),
        distillation=DistillationLoss(attention_weight=0.0, temperature=2.0),
        batch_size=128,
        seed=seed,
        xla=True,
    )

    def dense(epochs=DENSE_EPOCHS + ADAPTIVE_EPOCHS, **changes):
        return dataclasses.replace(
            base,
            model=Model(**{**sizes, **changes}),
            dense=dataclasses.replace(base.dense, epochs=epochs),
            adaptive=dataclasses.replace(base.adaptive, epochs=0, calibrate=False),
            distillation=None,
        )

    def adaptive(macs=0.5, gates=(), **training):
        return dataclasses.replace(
            base,
            dense_model=str(start),
            budget=BudgetLoss(macs_target=macs),
            gates=dataclasses.replace(base.gates, **dict(gates)),
            adaptive=dataclasses.replace(base.adaptive, **training),
        )

    chance = RandomPolicy(tokens=0.48, seed=seed)
    return {
        "start": dense(DENSE_EPOCHS),
        "adaptive-0.5": adaptive(),
        "dense": dense(),
        "shallow": dense(depth=SIZES["depth"] // 2),
        "narrow": dense(width=66),
        "adaptive-0.35": adaptive(0.35),
        "adaptive-0.7": adaptive(0.7),
        "all gates": adaptive(gates=ALL),
        "heads alone": adaptive(gates=HEADS),
        "sub-layers alone": adaptive(gates=SUBLAYERS),
        "random": adaptive(policy=chance, calibrate=False),
    }
