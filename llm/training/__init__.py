"""Training: its settings, what is minimised, one step and the loop around it.

`Training` says how. `train` holds the step, `stack` trains many small models in one program,
`finetune` one large model on a mesh.
"""

from .settings import Training

__all__ = ["Training"]
