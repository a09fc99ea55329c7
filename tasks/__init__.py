"""What a task is: protocols and metrics, pure functions of arrays. No files, no network, no GPU."""

from clipeval.tasks.association import Association
from clipeval.tasks.attributes import Attribute, Attributes, Harm
from clipeval.tasks.base import Samples, Scores, Task
from clipeval.tasks.calibration import Calibration
from clipeval.tasks.captioning import Captioning
from clipeval.tasks.classification import Classification
from clipeval.tasks.clustering import Clustering, RawClustering
from clipeval.tasks.factors import Factors
from clipeval.tasks.groups import GroupMetrics
from clipeval.tasks.hierarchy import Hierarchy
from clipeval.tasks.image_retrieval import ImageRetrieval
from clipeval.tasks.means import Drop
from clipeval.tasks.multilabel import MultiLabel
from clipeval.tasks.neighbours import NearestNeighbours
from clipeval.tasks.out_of_distribution import OutOfDistribution
from clipeval.tasks.pairs import Pairs
from clipeval.tasks.probe import LinearProbe
from clipeval.tasks.raw_image_retrieval import RawImageRetrieval
from clipeval.tasks.relabelled import Relabelled, Variants
from clipeval.tasks.retrieval import Retrieval
from clipeval.tasks.selection import Selection
from clipeval.tasks.similarity import ImageSimilarity
from clipeval.tasks.statistics import Statistic
from clipeval.tasks.tree import Tree
from clipeval.tasks.video import VideoClassification, VideoRetrieval
from clipeval.tasks.watermark import Watermark
from clipeval.tasks.weighted import WeightedPrompts
from clipeval.tasks.zero_shot import Pooling, Templates

__all__ = [
    "Association",
    "Attribute",
    "Attributes",
    "Calibration",
    "Captioning",
    "Classification",
    "Clustering",
    "Drop",
    "Factors",
    "GroupMetrics",
    "Harm",
    "Hierarchy",
    "ImageRetrieval",
    "ImageSimilarity",
    "LinearProbe",
    "MultiLabel",
    "NearestNeighbours",
    "OutOfDistribution",
    "Pairs",
    "Pooling",
    "RawClustering",
    "RawImageRetrieval",
    "Relabelled",
    "Retrieval",
    "Samples",
    "Scores",
    "Selection",
    "Statistic",
    "Task",
    "Templates",
    "Tree",
    "Variants",
    "VideoClassification",
    "VideoRetrieval",
    "Watermark",
    "WeightedPrompts",
]
