"""The stages of a language-model experiment, from a base to what its students answer.

Each is a recipe: typed settings that hold the settings of what they build on.

    bases.Pretrained | bases.Checkpoint
      -> teachers.Tuned                        a trait, or none: the unchanged base
        -> completions.Completions             sampled, filtered, a file
          -> students.Student                  on starts.* and under changes.*
            -> answers.Answers, answers.Scores sampled answers, exact scores: files
            -> evaluation                      log-odds and rates of traits

A `Workshop` carries recipes out, each once: over a stack of tiny models (`engines.Stack`), over
one model on a mesh (`engines.OnMesh`), or through a server (`served.Served`). `python -m llm` and
the experiments are thin callers.
"""

from .answers import Answers, Scores
from .bases import Adapted, Checkpoint, Pretrained
from .changes import Admitted, Diluted, DivergenceTokens, Mixed, Shuffled
from .completions import Completions, Files, Used
from .recipe import Model, Recipe
from .skilled import Skilled
from .starts import BehaviourMatched, Continued, Grafted, Permuted
from .students import Student
from .teachers import Tuned
from .workshop import Workshop

__all__ = [
    "Adapted",
    "Admitted",
    "Answers",
    "BehaviourMatched",
    "Checkpoint",
    "Completions",
    "Continued",
    "Diluted",
    "DivergenceTokens",
    "Files",
    "Grafted",
    "Mixed",
    "Model",
    "Permuted",
    "Pretrained",
    "Recipe",
    "Scores",
    "Shuffled",
    "Skilled",
    "Student",
    "Tuned",
    "Used",
    "Workshop",
]
