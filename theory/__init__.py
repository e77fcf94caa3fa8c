"""The gradient-alignment theorem of arXiv 2507.14805, verified numerically for any network.

The only contract is a pair: `apply(params, inputs) -> logits` and a scalar trait loss of the
parameters. Read `theory/README.md` first; `theory.check` puts a model through every claim.
"""
