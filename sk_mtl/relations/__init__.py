"""Did sharing help, which tasks help which, and groups of tasks that do."""

from sk_mtl.relations._affinity import task_affinity
from sk_mtl.relations._gain import multi_task_gain
from sk_mtl.relations._grouper import TaskGrouper
from sk_mtl.relations._result import MultiTaskGain

__all__ = ["MultiTaskGain", "TaskGrouper", "multi_task_gain", "task_affinity"]
