"""The published settings, and the recipes that have them, on a small folder with a small model."""

import numpy as np
import pytest
from PIL import Image

import keras_adavit as ka
from keras_adavit.commands.main import main
from keras_adavit.experiments.published import PUBLISHED_AUGMENT
from keras_adavit.experiments.recipe_file import find_recipe, load_recipe, save_recipe
from keras_adavit.experiments.stage import steps_of
from keras_adavit.models.presets import PRESETS
from keras_adavit.models.saved import load_model
from keras_adavit.training.optimizers import adamw
from keras_adavit.training.schedules import value_at

NAMES = ("ada_deit_tiny", "ada_deit_small", "ada_deit_base", "ada_t2t_vit_14", "ada_t2t_vit_19")


@pytest.mark.parametrize("name", NAMES)
def test_recipes_have_the_published_settings(name, tmp_path):
    recipe = load_recipe(find_recipe(name))
    assert recipe.model.preset in PRESETS
    assert recipe.model.preset.startswith(name)
    assert (recipe.model.weights, recipe.dense.epochs) == ("imagenet", 0)
    assert (recipe.data.image_size, recipe.data.crop_fraction) == (224, 0.9)
    assert recipe.data.augment == PUBLISHED_AUGMENT
    training = recipe.adaptive
    assert recipe.batch_size * training.accumulate == training.reference_batch  # the rates are as they are
    assert training.epochs * training.warmup == pytest.approx(10)
    assert training.epochs * training.cooldown == pytest.approx(10)
    assert (training.clip_norm, training.global_clip_norm) == (None, None)
    assert (training.average, training.epsilon, training.weight_decay) == (0.99996, 1e-8, 0.05)
    save_recipe(recipe, tmp_path / "recipe.py")
    assert load_recipe(tmp_path / "recipe.py") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_better_recipes_differ_in_gates_and_budget(name):
    published, better = (load_recipe(find_recipe(each)) for each in (name, f"{name}_better"))
    assert better.model == published.model
    assert better.data == published.data
    assert better.adaptive.calibrate
    assert better.gates.key_gradient
    assert better.budget.macs_target in (0.5, 0.46)
    assert better.distillation is not None


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch, capsys):
    """On an image folder, from the weights of a small dense model, which teaches."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("cats", "dogs"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (30, 40, 3)).astype("uint8")
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    sizes = {"patch_size": 8, "width": 12, "depth": 2, "num_heads": 3}
    ka.AdaViTClassifier(ka.AdaViTBackbone(image_size=32, gates=None, **sizes), 2).save("dense.keras")
    options = {"data.path": "photos", "data.image-size": 32, "batch-size": 4, "model.preset": None}
    options |= {"model.weights": "dense.keras", "xla": False}
    options |= {f"model.{size.replace('_', '-')}": value for size, value in sizes.items()}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    for name in ("ada_deit_small", "ada_deit_small_better"):
        code = main(["train", name, "--smoke", *arguments, "--output", name])
        assert code == 0, capsys.readouterr()
        assert load_model(f"{name}/adaptive/last.keras").preprocessing.crop_fraction == 0.9


def test_rates_of_the_published_training():
    """From 1e-6 up to 5e-4 in ten epochs, 1e-5 from the 300th epoch on; the same all through an epoch."""
    training, steps = load_recipe(find_recipe("ada_deit_small")).adaptive, 7
    total = steps * training.epochs
    schedule = adamw(
        training.learning_rate,
        total,
        steps_of(training.warmup, total),
        training.final_learning_rate,
        first_learning_rate=training.first_learning_rate,
        cooldown_steps=steps_of(training.cooldown, total),
        steps_per_epoch=steps,
    )._learning_rate
    rates = [float(value_at(schedule, epoch * steps)) for epoch in (0, 5, 10, 300, 309)]
    assert rates == pytest.approx([1e-6, (5e-4 + 1e-6) / 2, 5e-4, 1e-5, 1e-5], rel=1e-3)
    assert float(value_at(schedule, 5 * steps + 6)) == pytest.approx(rates[1])
