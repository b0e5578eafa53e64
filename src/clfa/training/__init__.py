"""Posts -> a trained run: set-up, loop, objective, checkpoints; and teachers."""
