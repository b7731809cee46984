"""Data, tasks, and the loop that trains."""

from .batchnorm import recalibrate_batchnorm as recalibrate_batchnorm
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import save_checkpoint as save_checkpoint
from .checkpoint import save_weights as save_weights
from .config import TrainConfig as TrainConfig
from .data import Data as Data
from .data import load_data as load_data
from .evaluation import evaluate as evaluate
from .evaluation import evaluate_model as evaluate_model
from .launching import launched as launched
from .loader import steps_per_epoch as steps_per_epoch
from .loader import train_batches as train_batches
from .loader import validation_batches as validation_batches
from .loop import Hooks as Hooks
from .loop import Progress as Progress
from .loop import check_accelerator as check_accelerator
from .loop import train as train
from .processes import Processes as Processes
from .processes import processes as processes
from .state import TrainState as TrainState
from .task import ClassificationTask as ClassificationTask
from .task import FileTask as FileTask
from .task import Predict as Predict
from .task import Task as Task
from .task import load_task as load_task

__all__ = [
    "ClassificationTask",
    "Data",
    "FileTask",
    "Hooks",
    "Predict",
    "Processes",
    "Progress",
    "Task",
    "TrainConfig",
    "TrainState",
    "check_accelerator",
    "evaluate",
    "evaluate_model",
    "launched",
    "load_checkpoint",
    "load_data",
    "load_task",
    "processes",
    "recalibrate_batchnorm",
    "save_checkpoint",
    "save_weights",
    "steps_per_epoch",
    "train",
    "train_batches",
    "validation_batches",
]
