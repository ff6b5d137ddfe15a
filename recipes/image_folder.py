"""Any folder of images: DIR/{train,val or validation or test}/<class>/*.{jpg,jpeg,png}.

    python train.py recipes/image_folder.py --data.path DIR

The sizes are for small pictures such as CIFAR-10's: 32 pixels, patches of 4. For larger pictures give the image size
and the model, for example: --data.image-size 96 --data.crop-fraction 0.9 --model.patch-size 8 --model.width 192
"""

from keras_adavit.gate_config import GateConfig
from keras_adavit.recipe import AdaptiveTraining, Augment, BudgetLoss, DenseTraining, ImageFolder, Model, Recipe

recipe = Recipe(
    name="image_folder",
    data=ImageFolder(image_size=32, crop_fraction=1.0, augment=Augment(crop_scale=(0.5, 1.0))),
    model=Model(patch_size=4, width=96, depth=6, num_heads=3, mlp_ratio=2.0),
    gates=GateConfig(),
    budget=BudgetLoss(token_target=0.6, head_target=0.8, block_target=0.8),
    dense=DenseTraining(epochs=10, learning_rate=1e-3, label_smoothing=0.1),
    adaptive=AdaptiveTraining(
        epochs=6,
        learning_rate=5e-4,
        gate_learning_rate=2.5e-3,
        warmup=0.05,
        budget_ramp=0.4,
        final_temperature=1.0,
        label_smoothing=0.1,
    ),
    batch_size=128,
    xla=True,  # on the CPU too: XLA halves the time of a step
)
