"""Pretraining, segmentation, diagnosis and fusion."""
