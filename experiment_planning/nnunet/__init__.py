"""Datasets and folds in nnU-Net's folder format, and back."""
