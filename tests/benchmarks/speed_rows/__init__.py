"""The rows of the speed table, one module each; `measure` holds what they share."""
