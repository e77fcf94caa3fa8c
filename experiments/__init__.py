"""Entry points: the only code here that reads flags, writes files and draws.

`python -m experiments` lists the experiments; `python -m experiments.<name> --help` explains one.
"""

# In the order in which a reader meets them, which is also the order of the report.
NAMES = (
    "mnist_aux_logits",
    "gradient_alignment",
    "equality_cases",
    "beyond_the_theorem",
    "multi_step",
    "alignment_along_training",
    "microworld",
    "paper_on_a_laptop",
    "mechanism",
)
