import keras
import numpy as np
from keras import ops

import keras_adavit as ka
from keras_adavit.training.averaging import AverageWeights
from keras_adavit.training.optimizers import adamw


def test_averages_outlive_compiled_evaluation():
    """On JAX a compiled evaluation takes the arrays of the model, which must not be the optimizer's own."""
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=1, num_heads=2, gates=None)
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adamw(1e-2, steps=10, average=0.5), loss, jit_compile=keras.backend.backend() == "jax")
    data = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32"), np.array([0, 1, 2, 0])
    model.fit(*data, validation_data=data, epochs=2, verbose=0, callbacks=[AverageWeights()])
    for variable, average in zip(
        model.trainable_variables, model.optimizer._model_variables_moving_average, strict=True
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(average))
