"""Vision transformers that spend on each image only what it needs."""

from keras_adavit.startup import interrupt_in_one_line, without_remarks

with without_remarks():
    interrupt_in_one_line()
    import keras  # noqa: F401

from keras_adavit import visualize
from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.export.write import export
from keras_adavit.gating.config import GateConfig
from keras_adavit.gating.external import OpenPolicy, RandomPolicy
from keras_adavit.gating.merging import MergePolicy
from keras_adavit.gating.top_k import TopKPolicy
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.distillation import DistillationLoss
from keras_adavit.training.losses import CrossEntropy
from keras_adavit.training.tensorboard import PolicyTensorBoard
from keras_adavit.weights.load import load_torch_checkpoint

__all__ = [
    "AdaViTBackbone",
    "AdaViTClassifier",
    "BudgetLoss",
    "CrossEntropy",
    "DistillationLoss",
    "GateConfig",
    "InputError",
    "MergePolicy",
    "OpenPolicy",
    "PolicyTensorBoard",
    "Preprocessing",
    "RandomPolicy",
    "TopKPolicy",
    "calibrate",
    "export",
    "load_torch_checkpoint",
    "visualize",
]
__version__ = "0.1.0"
