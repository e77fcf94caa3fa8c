"""Language models: load, fine-tune, sample and evaluate decoders with JAX and Flax."""
