"""Prediction, and the demo."""
