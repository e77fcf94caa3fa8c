"""What the experiments of the language room share: chains, effects, measurements along training."""
