"""Training: configuration, augmentation, schedule and the loop."""
