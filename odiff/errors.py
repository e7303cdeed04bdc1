"""Every error that is the user's to mend; a command prints it and exits with code 2.

Anything that is not an `OdiffError` is a bug of odiff and keeps its traceback.
"""


class OdiffError(Exception):
    """Base of all errors a user can mend. The message names the file, the field, the value and the next step."""


class UsageError(OdiffError):
    """A command-line argument, or a function argument that mirrors one, does not make sense."""


class DatasetError(OdiffError):
    """A dataset folder, its dataset.json, cases.csv or splits break the data contract."""


class ImageError(OdiffError):
    """An image file cannot be read, or its geometry or voxels are faulty."""


class PlanError(OdiffError):
    """A plan is missing, unreadable, of another schema version, or holds an impossible value."""


class CheckpointError(OdiffError):
    """A trained model is missing, damaged, or belongs to another plan."""


class TrainingError(OdiffError):
    """A training went astray: its loss is no number any more, or two of them share a folder."""


class StorageError(OdiffError):
    """A file cannot be written: the disk is full, or the folder is read-only."""
