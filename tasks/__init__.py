"""What a task is: protocols and metrics, pure functions of arrays. No files, no network, no GPU."""

from tasks.association import Association
from tasks.attributes import Attribute, Attributes, Harm
from tasks.base import Samples, Scores, Task
from tasks.captioning import Captioning
from tasks.classification import Classification
from tasks.groups import GroupMetrics
from tasks.heads import Templates
from tasks.multilabel import MultiLabel
from tasks.probe import LinearProbe
from tasks.retrieval import Retrieval
from tasks.selection import Selection
from tasks.statistics import Statistic

__all__ = [
    "Association",
    "Attribute",
    "Attributes",
    "Captioning",
    "Classification",
    "GroupMetrics",
    "Harm",
    "LinearProbe",
    "MultiLabel",
    "Retrieval",
    "Samples",
    "Scores",
    "Selection",
    "Statistic",
    "Task",
    "Templates",
]
