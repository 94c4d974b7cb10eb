"""Training: the made-up world, episodes, the objective, and the recipe of the built-in model."""
