"""The training loop and what belongs to it: settings, step, evaluation, log, run folder."""
