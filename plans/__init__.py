"""Presets as JSON; data only."""
