"""Fine-tuning: published DeiT-S weights, then your own photos, then gates that learn where to look in them.

    python train.py recipes/finetune.py --data.path DIR

DIR holds one folder a class; a tenth of each is held out (`--data.validation-share`), and `split.csv` says which. For
a folder with `train` and `val` give `--data.validation-share None`. Three trainings follow each other: the new
classifier alone, the whole dense model, then the adaptive one, which also learns from the dense one. For a T2T-ViT give
`--model.preset ada_t2t_vit_14`; for weights of your own `--model.weights FILE` (.pth, .safetensors or .keras).

Tried small, with other rates and epochs, on TensorFlow: 10 classes of Tiny-ImageNet (5,000 photos of 64 pixels to train
on, 500 to look at), a model of patches of 8, width 128 and 6 blocks, weights of a dense model of the 90 other classes.
After 10 epochs the dense model is right on 65.8 %, and on 48.2 % from random weights; the adaptive one, 16 epochs
later, on 64.8 % at 0.66 of the MACs, and on 61.0 % at 0.61 once it is calibrated. DeiT-S at 224 pixels has run for some
steps.
"""

from keras_adavit.experiments import (
    AdaptiveTraining,
    Augment,
    BudgetLoss,
    DenseTraining,
    DistillationLoss,
    GateConfig,
    ImageFolder,
    Model,
    Recipe,
    Training,
)

recipe = Recipe(
    name="finetune",
    data=ImageFolder(image_size=224, validation_share=0.1, augment=Augment(crop_scale=(0.35, 1.0))),
    model=Model(preset="ada_deit_small_patch16_224", weights="imagenet"),
    # See image_folder.py for the choice of gates.
    gates=GateConfig(heads=None, blocks=False, temperature=1.0, token_threshold=0.5),
    budget=BudgetLoss(macs_target=0.6, noise_free=True),
    classifier=Training(epochs=2, learning_rate=1e-3, weight_decay=0.0),
    dense=DenseTraining(epochs=8, learning_rate=1e-4, layer_decay=0.75, drop_path=0.1, label_smoothing=0.1),
    adaptive=AdaptiveTraining(
        epochs=12,
        learning_rate=5e-5,
        gate_learning_rate=5e-4,
        layer_decay=0.75,
        warmup=0.05,
        budget_ramp=0.3,
        label_smoothing=0.1,
        calibrate=True,
    ),
    distillation=DistillationLoss(attention_weight=0.0, temperature=2.0),
    batch_size=64,
)
