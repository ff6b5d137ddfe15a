"""Ada-DeiT-S on ImageNet as published: gates of patches, heads and sub-layers, from the weights of DeiT-S.

    python train.py recipes/ada_deit_small.py --data.path DIR

DIR holds ImageNet's folders `train` and `val`, in each one folder a class. `--smoke` tries it out in a few steps. For
other classes give `--classifier.epochs 5` too: the new classifier is then trained first. The settings, and where they
are from, are in `keras_adavit/experiments/published.py`. The 310 epochs are meant for several GPUs.

Published (Meng et al., AdaViT, CVPR 2022): 77.3 % top-1 at 2.3 GMACs; the dense model has 79.9 % at 4.6.
This recipe has not been run at full length here.
"""

from keras_adavit.experiments.published import published_recipe

recipe = published_recipe("ada_deit_small", preset="ada_deit_small_patch16_224")
