"""Command lines: parse, make one call, return an exit code."""
