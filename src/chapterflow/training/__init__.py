"""Fitting a chapter model: input pipeline, schedule, checkpoints, resume."""
