"""What `claims.py` is made of: cohorts, arms, experiments, and the intervals and pages drawn from their rows."""
