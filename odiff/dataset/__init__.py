"""The raw dataset folder: dataset.json, cases.csv, file names and splits."""

from odiff.dataset.case_table import CaseRow, default_rows, read_case_table, scan_case_table
from odiff.dataset.description import DatasetDescription, ListedFile, parse_description, read_description
from odiff.dataset.loading import Case, Dataset, find_dataset, join_case, load_dataset
from odiff.dataset.series import Series, dataset_series, list_series, mask_at, parse_name
from odiff.dataset.splits import Split, check_splits, make_splits, read_splits

__all__ = [
    "Case",
    "CaseRow",
    "Dataset",
    "DatasetDescription",
    "ListedFile",
    "Series",
    "Split",
    "check_splits",
    "dataset_series",
    "default_rows",
    "find_dataset",
    "join_case",
    "list_series",
    "load_dataset",
    "make_splits",
    "mask_at",
    "parse_description",
    "parse_name",
    "read_case_table",
    "read_description",
    "read_splits",
    "scan_case_table",
]
