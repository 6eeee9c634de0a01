"""Training: the recipe, the step, the loop, checkpoints, run directories and evaluation."""
