"""Fine-tuning: published DeiT-S weights, then your own photos, then gates that learn where to look in them.

    python train.py recipes/finetune.py --data.path DIR

DIR holds one folder a class; a tenth of each is held out (`--data.validation-share`), and `split.csv` says which. For
a folder with `train` and `val` give `--data.validation-share None`. Three trainings follow each other: the new
classifier alone, the whole dense model, then the adaptive one, which also learns from the dense one. For a T2T-ViT give
`--model.preset ada_t2t_vit_14`; for weights of your own `--model.weights FILE` (.pth, .safetensors or .keras).

Tried small: 10 classes of Tiny-ImageNet (5,000 photos of 64 pixels to train on, 500 to look at), a model of patches of
8, width 128 and 6 blocks, weights of a dense model of the 90 other classes, 2, 8 and 20 epochs, two CPU cores, before
the random crop had its present form and without `key_gradient`:

    python train.py recipes/finetune.py --data.path DIR --data.validation-share None --data.image-size 64
        --data.crop-fraction 1 --model.preset None --model.patch-size 8 --model.width 128 --model.depth 6
        --model.num-heads 4 --model.mlp-ratio 2 --model.weights OTHER_CLASSES.keras --dense.learning-rate 3e-4
        --dense.layer-decay 0.85 --dense.drop-path 0.05 --adaptive.epochs 20 --adaptive.learning-rate 3e-4
        --adaptive.layer-decay 1 --adaptive.gate-learning-rate 5e-3 --budget.macs-target 0.595 --adaptive.no-calibrate
        --xla True

                dense     adaptive                      minutes
    TensorFlow  65.8 %    64.8 % at 0.590 of the MACs   13
    JAX         66.2 %    64.2 % at 0.590               21
    torch       66.0 %    66.4 % at 0.584               38, other work beside it

500 photos leave a standard error of 2 points. From random weights the dense model got to 48.2 %. DeiT-S at 224 pixels
has run for some steps on all three backends, in float32 and mixed_bfloat16, Ada-T2T-ViT-7 on torch.
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
    gates=GateConfig(heads=None, blocks=False, key_gradient=True, temperature=1.0, token_threshold=0.5),
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
