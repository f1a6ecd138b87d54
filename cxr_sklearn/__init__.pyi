"""The public names: this list is the only one, and __init__.py reads it."""

from .classifiers.finetuned import FineTunedClassifier as FineTunedClassifier
from .classifiers.resampling import AugmentedClassifier as AugmentedClassifier
from .classifiers.resampling import BalancedClassifier as BalancedClassifier
from .classifiers.scratch_cnn import ScratchCNNClassifier as ScratchCNNClassifier
from .datasets.audit import check as check
from .datasets.folder import load_folder as load_folder
from .datasets.folder import load_frame as load_frame
from .datasets.kaggle import fetch_chest_xray as fetch_chest_xray
from .datasets.splits import balanced_subset as balanced_subset
from .datasets.splits import group_split as group_split
from .datasets.splits import write_subset as write_subset
from .datasets.synthetic import make_radiographs as make_radiographs
from .datasets.synthetic import write_radiographs as write_radiographs
from .evaluation.discrepancy import diagnose_discrepancy as diagnose_discrepancy
from .evaluation.sample_size import validation_sample_size as validation_sample_size
from .features.domain import DomainDetector as DomainDetector
from .features.embedder import FrozenEmbedder as FrozenEmbedder
from .features.shortcuts import ShortcutFeatures as ShortcutFeatures
from .features.store import FeatureStore as FeatureStore
from .images.augment import ImageAugmenter as ImageAugmenter
from .images.batch import ImageBatch as ImageBatch
from .images.loader import ImageLoader as ImageLoader
from .models.explain import explain as explain
from .models.exported import ExportedModel as ExportedModel
from .models.files import load as load
from .models.files import load_model as load_model
from .models.files import save as save
from .models.files import save_model as save_model
from .models.model import CXRModel as CXRModel
from .models.onnx import export_onnx as export_onnx
from .models.prediction import predict as predict
from .study.adapt import adapt as adapt
from .study.compare import compare as compare
from .study.evaluate import evaluate as evaluate
from .study.learning_curve import learning_curve as learning_curve
from .study.probes import stress_test as stress_test
from .study.recipes import load_recipe as load_recipe
from .study.train import train as train

__version__: str
