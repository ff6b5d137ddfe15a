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
    MergePolicy,
    Model,
    RandomPolicy,
    Recipe,
    TopKPolicy,
)

EPOCHS = 24  # in all
START = 0.6  # share of them before a model gets its gates
RATE = 1e-3
SIZES = {"width": 96, "depth": 6, "num_heads": 3, "mlp_ratio": 2.0, "stem": "conv"}
DATA = {"cifar10": {"image_size": 32, "patch_size": 4}, "tiny_imagenet": {"image_size": 64, "patch_size": 8}}
CROP = {"cifar10": (0.5, 1.0), "tiny_imagenet": (0.35, 1.0)}  # of a small photo much is needed
# Tokens that cost half of the MACs: the share that top-k lets go on at three blocks, what merging takes at each.
TOP_K = {"cifar10": 0.54, "tiny_imagenet": 0.48}
MERGED = {"cifar10": 16, "tiny_imagenet": 20}
SPREAD = 0.2  # around 0.525: what a model for every budget is trained for
SUBLAYERS = {"heads": None, "blocks": True, "tokens": False, "key_gradient": False}
HEADS = {"heads": "full", "blocks": False, "tokens": False, "key_gradient": False}
ALL = {"heads": "full", "blocks": True, "tokens": True}


def rivals(data, folder, seed, start, epochs=EPOCHS):
    """Recipes by name.

    Args:
        data: `"cifar10"` or `"tiny_imagenet"`.
        folder: Folder of its images, with `train` and `val`.
        seed: Seed of everything.
        start: Where the recipe `start` leaves its dense model (.keras), to which gates are added.
        epochs: Of every model, in all.

    Returns:
        A dict; those that need `start` or `settled` come after it.
    """
    before = round(START * epochs)
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
        gates=GateConfig(heads=None, blocks=False, key_gradient=True, temperature=1.0, token_threshold=0.5),
        budget=BudgetLoss(macs_target=0.5, noise_free=True),
        dense=DenseTraining(learning_rate=RATE, label_smoothing=0.1, drop_path=0.05),
        adaptive=AdaptiveTraining(
            epochs=epochs - before,
            learning_rate=RATE,
            gate_learning_rate=2 * RATE,
            warmup=0.05,
            budget_ramp=0.4,
            label_smoothing=0.1,
            calibrate=True,
        ),
        batch_size=128,
        seed=seed,
        xla=True,
    )

    def dense(epochs=epochs, final=1e-5, **sizes_changed):
        return dataclasses.replace(
            base,
            model=Model(**{**sizes, **sizes_changed}),
            dense=dataclasses.replace(base.dense, epochs=epochs, final_learning_rate=final),
            adaptive=dataclasses.replace(base.adaptive, epochs=0, calibrate=False),
        )

    def adaptive(macs=0.5, gates=(), distillation=None, dense_model=start, spread=0.0, **training):
        return dataclasses.replace(
            base,
            dense_model=str(dense_model),
            budget=dataclasses.replace(base.budget, macs_target=macs, macs_spread=spread),
            gates=dataclasses.replace(base.gates, **dict(gates)),
            adaptive=dataclasses.replace(base.adaptive, **training),
            distillation=distillation,
        )

    chance = RandomPolicy(tokens=0.48, seed=seed)
    settled = start.parents[2] / "settled" / "dense" / "last.keras"
    teacher = DistillationLoss(attention_weight=0.0, temperature=2.0)
    return {
        # Its learning rate does not fall: that of the adaptive model goes on from there.
        "start": dense(before, final=RATE),
        "adaptive-0.5": adaptive(),
        "shallow": dense(depth=SIZES["depth"] // 2),
        "dense": dense(),
        "two blocks": dense(depth=SIZES["depth"] // 3),
        "narrow": dense(width=66),
        "settled": dense(before),
        "restarted": adaptive(dense_model=settled),
        "distilled": adaptive(dense_model=settled, distillation=teacher),
        "context": adaptive(gates={"token_context": True}),
        "own gradient": adaptive(gates={"key_gradient": False}),
        "any budget": adaptive(0.525, gates={"follow_budget": True}, spread=SPREAD),
        "adaptive-0.35": adaptive(0.35),
        "adaptive-0.7": adaptive(0.7),
        "top-k": adaptive(policy=TopKPolicy(TOP_K[data]), calibrate=False),
        "merging": adaptive(policy=MergePolicy(MERGED[data]), calibrate=False),
        "all gates": adaptive(gates=ALL),
        "heads alone": adaptive(gates=HEADS),
        "sub-layers alone": adaptive(gates=SUBLAYERS),
        "random": adaptive(policy=chance, calibrate=False),
    }
