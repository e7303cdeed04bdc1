"""Scores of segmentations and diagnoses, their intervals, and calibration."""
