"""From a name to a model with weights: ours, timm's, a file's, a training run's."""
