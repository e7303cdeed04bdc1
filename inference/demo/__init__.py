"""The whole job on the phantom, beside trivial and untrained predictors."""
