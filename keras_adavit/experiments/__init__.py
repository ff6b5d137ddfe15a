"""What a recipe is made of, for `from keras_adavit.experiments import Recipe, …`."""

from keras_adavit.data.augment import Augment
from keras_adavit.data.digits import Digits
from keras_adavit.data.hugging_face import HuggingFace
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.data.shards import Shards
from keras_adavit.data.tfds import Tfds
from keras_adavit.experiments.recipe import AdaptiveTraining, DenseTraining, Model, Recipe, Training
from keras_adavit.gating.config import GateConfig
from keras_adavit.gating.external import RandomPolicy
from keras_adavit.gating.merging import MergePolicy
from keras_adavit.gating.top_k import TopKPolicy
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.distillation import DistillationLoss

__all__ = [
    "AdaptiveTraining",
    "Augment",
    "BudgetLoss",
    "DenseTraining",
    "Digits",
    "DistillationLoss",
    "GateConfig",
    "HuggingFace",
    "ImageFolder",
    "MergePolicy",
    "Model",
    "RandomPolicy",
    "Recipe",
    "Shards",
    "Tfds",
    "TopKPolicy",
    "Training",
]
