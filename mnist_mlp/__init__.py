"""The auxiliary-logit experiment on MNIST (arXiv 2507.14805, section 6.2)."""
