"""The auxiliary-logit experiment on MNIST (arXiv 2507.14805, section 6.2).

Read `conditions.py` first: the published experiment, six conditions in a table, one seed after
the other in one program. `model.py` has the networks, `noise.py` what students are trained on,
`data.py` the digits. `grid.py` is the same experiment with everything else turned: losses, starts,
optimisers, numbers of auxiliary logits. All its variants are one compiled program, so its options
are numbers that can differ from run to run; that is why it reads less plainly.
"""
