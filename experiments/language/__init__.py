"""The language-model experiments: from scratch on a laptop, or from a checkpoint."""
