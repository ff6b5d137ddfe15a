"""What cannot fit into memory is refused before anything is made."""

import pytest
from rich.console import Console

from keras_adavit import memory
from keras_adavit.data import photos
from keras_adavit.errors import InputError
from keras_adavit.experiments import Digits, ImageFolder, Model, Recipe
from keras_adavit.experiments.run import run


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**30)


def test_a_machine_has_memory_and_takes_what_fits(monkeypatch):
    monkeypatch.undo()
    assert memory.machine_memory() > 2**28
    memory.check_memory(2**20, "A thing", "thing=1")


@pytest.mark.parametrize("sizes", [{"width": 4096}, {"depth": 1000}, {"mlp_ratio": 1e4}], ids=str)
def test_a_model_that_is_too_large(sizes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model(**{"patch_size": 8, "width": 256, "depth": 12, "num_heads": 4} | sizes)
    recipe = Recipe(name="large", data=Digits(validation_draws=1), model=model, batch_size=8)
    with pytest.raises(InputError, match=r"^The weights of `model`.* memory of 1 GiB\. Received: Model\(.* GiB$"):
        run(recipe, Console())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"image_size": 1024}, {"validation_draws": 1000}, {"clutter": 100}], ids=str)
def test_digits_that_are_too_many_or_too_large(options):
    sizes = {"image_size": 64, "clutter": 8, "repeats": 10} | options
    with pytest.raises(InputError, match=r"^The drawn images of all `validation_draws` .* memory of 1 GiB\."):
        Digits(**sizes).load(batch_size=2**13, seed=0)


def test_a_batch_of_photographs_that_is_too_large(monkeypatch):
    import tensorflow as tf

    folder = ImageFolder(image_size=8192)
    unknown = tf.data.Dataset.from_generator(lambda: iter([]), output_types=(tf.string, tf.int32))
    for make in (lambda: folder.train_batches(unknown, 2, 4, 0), lambda: folder.validation_batches(unknown, 4)):
        with pytest.raises(
            InputError, match=r"^A batch, of `batch_size` images, .* Received: batch_size=4, image_size"
        ):
            make()


def test_an_evaluation_batch_takes_what_the_images_need():
    """TensorFlow takes a whole batch before it fills it."""
    import tensorflow as tf

    few = tf.data.Dataset.from_tensor_slices((["a", "b"], [0, 1]))
    assert photos.Photos(image_size=16).validation_batches(few, 2**20) is not None
