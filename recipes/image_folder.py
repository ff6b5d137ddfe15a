"""Any folder of images: DIR/{train,val or validation or test}/<class>/*.{jpg,jpeg,png}.

    python train.py recipes/image_folder.py --data.path DIR

The sizes are for small pictures such as CIFAR-10's: 32 pixels, patches of 4. For larger pictures give the image size
and the model, for example: --data.image-size 96 --data.crop-fraction 0.9 --model.patch-size 8 --model.width 192

A first try, with a smaller model and few epochs:

    python train.py recipes/image_folder.py --data.path DIR --dense.epochs 1 --adaptive.epochs 2 --model.width 64
        --model.depth 3 --model.num-heads 4 --batch-size 256
"""

from keras_adavit.experiments import (
    AdaptiveTraining,
    Augment,
    BudgetLoss,
    DenseTraining,
    GateConfig,
    ImageFolder,
    Model,
    Recipe,
)

recipe = Recipe(
    name="image_folder",
    data=ImageFolder(image_size=32, crop_fraction=1.0, augment=Augment(crop_scale=(0.5, 1.0))),
    model=Model(patch_size=4, width=96, depth=6, num_heads=3, mlp_ratio=2.0, stem="conv"),
    # On photos gates of patches alone do as well as with those of heads and sub-layers; what others take from a patch
    # is what makes their decisions worth something. At a temperature of 1 and a threshold of 0.5 the noisy decisions of
    # training agree with those of evaluation.
    gates=GateConfig(heads=None, blocks=False, key_gradient=True, temperature=1.0, token_threshold=0.5),
    budget=BudgetLoss(macs_target=0.5, noise_free=True),
    # The dense model is where the gates begin, not an end: its rate does not fall, and the gates' training goes on with
    # it. For a dense model to keep: --adaptive.epochs 0 --dense.epochs 32 --dense.final-learning-rate 1e-5
    dense=DenseTraining(epochs=20, learning_rate=1e-3, final_learning_rate=1e-3, label_smoothing=0.1, drop_path=0.05),
    adaptive=AdaptiveTraining(
        epochs=12,
        learning_rate=1e-3,
        gate_learning_rate=2e-3,
        warmup=0.05,
        budget_ramp=0.4,
        label_smoothing=0.1,
        calibrate=True,
    ),
    batch_size=128,
    xla=True,  # on the CPU too
)
