"""Ada-DeiT-B on ImageNet with the gates and the budget that did better than the published ones on small photos.

    python train.py recipes/ada_deit_base_better.py --data.path DIR

Data, schedule and hardware are those of `ada_deit_base.py` beside it. What differs, and why, is in `better_recipe` of
`keras_adavit/experiments/published.py`; the budget is 0.5 of the dense model's MACs. It was not run at full length
here: what it reaches on ImageNet is not known.
"""

from keras_adavit.experiments.published import better_recipe

recipe = better_recipe("ada_deit_base_better", preset="ada_deit_base_patch16_224", macs=0.5)
