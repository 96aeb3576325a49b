"""TinyDet and BigDet, their matching, losses and checkpoints."""
