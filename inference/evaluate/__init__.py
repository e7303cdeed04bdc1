"""Scores against references, of predictions or out of fold, and paired tests between them."""
