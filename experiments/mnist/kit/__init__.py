"""What the experiments of this room share."""
