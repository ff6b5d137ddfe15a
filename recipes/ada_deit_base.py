"""Ada-DeiT-B on ImageNet as published: gates of patches, heads and sub-layers, from the weights of DeiT-B.

    python train.py recipes/ada_deit_base.py --data.path DIR

DIR holds ImageNet's folders `train` and `val`, in each one folder a class. `--smoke` tries it out in a few steps. For
other classes give `--classifier.epochs 5` too: the new classifier is then trained first. The settings, and where they
are from, are in `keras_adavit/experiments/published.py`. The 310 epochs are meant for several GPUs.

The dense model has 81.8 % top-1 at 17.6 GMACs. The authors of AdaViT (Meng et al., CVPR 2022) give no figures for the
adaptive one of this size; its budget aims at half of all patches, heads and sub-layers.
This recipe has not been run at full length here.
"""

from keras_adavit.experiments.published import published_recipe

recipe = published_recipe("ada_deit_base", preset="ada_deit_base_patch16_224")
