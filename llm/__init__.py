"""Language models: load, fine-tune, sample and evaluate decoders with JAX and Flax."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that PyTorch is absent
