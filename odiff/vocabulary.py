"""Words that flags take and folders are named by, apart from what they stand for.

torch takes a second or two to import; ``--help`` and a mistyped flag are answered without it.
"""

FUSED = "fused"
TASKS = ("pretrain", "segmentation", "diagnosis", "probe")
PREDICTED = ("segmentation", "diagnosis")
FINAL = "final"
CHECKPOINTS = (FINAL, "best")
AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "float16")
BASELINES = ("unet3d", "unetr", "resnet18")
EVALUATION = "evaluation"


def restart_flags(task: str) -> str:
    """The flags of odiff_train that begin runs of a task, or in a folder of that name, anew: pretraining only by its name."""
    return "--task pretrain --restart" if task == "pretrain" else "--restart"
