"""The published training of adaptive models on ImageNet, from the weights of DeiT and T2T-ViT.

It is what the published code does by default, among it the 300 epochs. Its rates come from T2T-ViT, which has 64 images
on each of eight devices in an update; here four batches of 128 make one. Colour jitter, which that code sets to 0.4, is
not here: with RandAugment its data loader leaves it out. Nor is drop path: next to gates of sub-layers the published
models have none.
"""

import dataclasses

from keras_adavit.data.augment import Augment
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.experiments.recipe import AdaptiveTraining, DenseTraining, Model, Recipe
from keras_adavit.gating.config import GateConfig
from keras_adavit.models.presets import PUBLISHED_PREPROCESSING
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.distillation import DistillationLoss

EPOCHS, WARMUP, COOLDOWN = 300, 10, 10  # the warm-up is part of the 300, the cooldown follows them

PUBLISHED_AUGMENT = Augment(
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    interpolation="random",
    flip=True,
    randaugment=9.0,
    randaugment_std=0.5,
    mixup=0.8,
    cutmix=1.0,
    erasing=0.25,
)


def published_recipe(name, preset):
    """The recipe of an adaptive model as it was published.

    Args:
        name: Of the recipe.
        preset: Name of the published model.

    Returns:
        A `Recipe` for a folder of images, `--data.path DIR`.
    """
    epochs = EPOCHS + COOLDOWN
    return Recipe(
        name=name,
        data=ImageFolder(
            image_size=224, crop_fraction=PUBLISHED_PREPROCESSING.crop_fraction, augment=PUBLISHED_AUGMENT
        ),
        model=Model(preset=preset, weights="imagenet"),
        gates=GateConfig(initial_bias=0.0),
        dense=DenseTraining(epochs=0),
        adaptive=AdaptiveTraining(
            epochs=epochs,
            learning_rate=5e-4,
            first_learning_rate=1e-6,
            final_learning_rate=1e-5,
            reference_batch=512,
            warmup=WARMUP / epochs,
            cooldown=COOLDOWN / epochs,
            step_every_epoch=True,
            weight_decay=0.05,
            decay_gates=True,
            epsilon=1e-8,
            clip_norm=None,
            accumulate=4,
            average=0.99996,
            label_smoothing=0.1,
            budget_ramp=0.0,
        ),
        batch_size=128,
    )


def better_recipe(name, preset, macs):
    """The same training with what did better on small photos (`recipes/image_folder.py`), the gates and their budget.

    Gates of patches alone, which learn what others take from a patch, start open; a budget of MACs, counted on the
    decisions that evaluation takes and met by the closing calibration; the dense model teaches.

    Args:
        name: Of the recipe.
        preset: Name of the published model.
        macs: Share of the dense model's MACs.

    Returns:
        A `Recipe` for a folder of images, `--data.path DIR`.
    """
    recipe = published_recipe(name, preset)
    return dataclasses.replace(
        recipe,
        gates=GateConfig(heads=None, blocks=False, key_gradient=True, temperature=1.0, token_threshold=0.5),
        budget=BudgetLoss(macs_target=macs, noise_free=True),
        adaptive=dataclasses.replace(recipe.adaptive, decay_gates=False, budget_ramp=0.4, calibrate=True),
        distillation=DistillationLoss(attention_weight=0.0, temperature=2.0),
    )
