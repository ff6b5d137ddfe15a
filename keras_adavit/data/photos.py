"""What sources of photographs share: options, and the pipelines from encoded images to batches."""

from __future__ import annotations

from dataclasses import field

from keras_adavit.data.augment import Augment, erase, mix
from keras_adavit.data.decode import decode_center_crop, decode_random_crop
from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.pipeline import Splits, drawn_anew, epoch_seed, normalize, with_seeds
from keras_adavit.data.rand_augment import rand_augment
from keras_adavit.memory import check_memory
from keras_adavit.settings import ImageSize, PositiveFloat, PositiveShare, numbers, settings

Mean = numbers(float, 3, "three numbers")
Std = numbers(PositiveFloat, 3, "three positive numbers")


@settings(kw_only=True)
class Photos:
    """Options that every source of photographs has."""

    image_size: ImageSize = 224
    """Side of the square images, in pixels."""
    crop_fraction: PositiveShare = 0.875
    """Side of the central square that is evaluated, over the shorter side; 1 for small images."""
    mean: Mean = (0.485, 0.456, 0.406)
    """Taken from the channels in 0..1; the default is ImageNet's."""
    std: Std = (0.229, 0.224, 0.225)
    """The channels are divided by it; the default is ImageNet's."""
    augment: Augment = field(default_factory=Augment)
    """How training images are varied."""

    def check_memory(self, batch_size: int) -> None:
        """Raises `InputError` if a batch cannot fit into memory: TensorFlow takes it whole before it is filled."""
        sizes = f"batch_size={batch_size}, image_size={self.image_size}"
        check_memory(4 * 3 * self.image_size**2 * batch_size, "A batch, of `batch_size` images,", sizes)

    def train_batches(self, shuffled, num_classes: int, batch_size: int, seed: int, part: Part = WHOLE):
        """The training batches of any epoch.

        Args:
            shuffled: Function of a seed `(2,)` that gives a shuffled dataset of (bytes of an image
                file, int32 label).
            num_classes: K.
            batch_size: Images in a whole batch.
            seed: Of all epochs.
            part: What of each batch is made. Its images are varied as in the whole batch, but mixed among themselves.

        Returns:
            Function of an epoch's number, an int64 scalar tensor, that gives its batches of augmented images.
        """
        import tensorflow as tf

        self.check_memory(batch_size)
        augment, auto = self.augment, tf.data.AUTOTUNE
        fill = [round(255 * min(max(channel, 0), 1)) for channel in self.mean]

        def decode(example, seed):
            crop_seed, vary_seed = tf.unstack(tf.random.split(seed, 2))
            image = decode_random_crop(
                example[0],
                crop_seed,
                self.image_size,
                augment.crop_scale,
                augment.crop_ratio,
                augment.flip,
                augment.cubic,
            )
            if augment.randaugment:
                magnitude, std = augment.randaugment, augment.randaugment_std
                image = rand_augment(image, vary_seed, magnitude, std, fill, augment.cubic)
            return image, example[1]

        def finish(batch, seed):
            images, labels = normalize(batch[0], self.mean, self.std), batch[1]
            erase_seed, mix_seed = tf.unstack(tf.random.split(seed, 2))
            if part.index:
                erase_seed = tf.random.fold_in(erase_seed, part.index)
            if augment.mixup or augment.cutmix:
                images, labels = mix(images, labels, mix_seed, augment.mixup, augment.cutmix, num_classes)
            if augment.erasing:
                images = erase(images, erase_seed, augment.erasing)
            return images, labels

        def epoch(number):
            order_seed, image_seed, batch_seed = tf.unstack(tf.random.split(epoch_seed(seed, number), 3))
            encoded = with_seeds(shuffled(order_seed), image_seed)
            if part.count > 1:  # before they are decoded
                encoded = part.of(encoded.batch(batch_size, drop_remainder=True), batch_size).unbatch()
            images = encoded.map(decode, auto)
            batches = with_seeds(images.batch(part.size(batch_size), drop_remainder=True), batch_seed)
            return single_threaded(batches.map(finish, auto).prefetch(auto))

        return epoch

    def splits(self, train_epoch, held_out, calibration, batch_size: int, seed: int, steps: int, **known):
        """The `Splits` of a source.

        Args:
            train_epoch: As of `train_batches`.
            held_out, calibration: Datasets of (bytes of an image file, int32 label).
            batch_size: Images in a batch.
            seed: Of all epochs.
            steps: Batches of an epoch.
            **known: The fields of `Splits` that the source knows.
        """
        return Splits(
            train=drawn_anew(train_epoch, steps, seed),
            train_epoch=train_epoch,
            validation=self.validation_batches(held_out, batch_size),
            calibration=self.validation_batches(calibration, batch_size),
            mean=self.mean,
            std=self.std,
            crop_fraction=self.crop_fraction,
            **known,
        )

    def validation_batches(self, encoded, batch_size: int):
        """Batches of centre crops, in order, from a dataset of (bytes of an image file, int32 label)."""
        import tensorflow as tf

        auto = tf.data.AUTOTUNE
        if encoded.cardinality() > 0:  # a negative one is not known
            batch_size = min(batch_size, int(encoded.cardinality()))
        self.check_memory(batch_size)
        batches = encoded.map(
            lambda image, label: (decode_center_crop(image, self.image_size, self.crop_fraction), label), auto
        ).batch(batch_size)
        batches = batches.map(lambda images, labels: (normalize(images, self.mean, self.std), labels), auto)
        return single_threaded(batches.prefetch(auto))


def single_threaded(dataset):
    """Lets each operation run on one thread: a pipeline is parallel over images, and faster so."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)
