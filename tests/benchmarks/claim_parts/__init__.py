"""What `claims.py` is made of: cohorts, training, experiments, and intervals of differences between their rows."""
