"""Scripts that print tables and write JSON: speed, and what a step costs."""
