"""Training jobs, `python -m train.glue`: flags to a configuration to calls of the library. No maths, no jit."""
