"""The stages of a language-model experiment, from a base to what its students answer.

Each is a recipe: typed settings that hold the settings of what they build on.

    bases.Pretrained | bases.Checkpoint
      -> finetuned.FineTuned                   on `rows`: a trait, a file, a skill; or none
        -> completions.Completions             sampled, filtered, a file
          -> students.Student                  on starts.* and under changes.*
            -> answers.Answers, answers.Scores sampled answers, exact scores: files
            -> evaluation                      log-odds and rates of traits

A `Store` carries recipes out, each once: over a stack of tiny models (`engines.Stack`), over
one model on a mesh (`engines.OnMesh`), or through a server (`engines.server.Served`).
`python -m llm` and the experiments are thin callers.
"""

from .answers import Answers, Scores
from .bases import Adapted, Checkpoint, Pretrained
from .changes import Admitted, Diluted, DivergenceTokens, Mixed, Shuffled
from .completions import Completions, Files, Used
from .finetuned import FineTuned
from .recipe import Model, Recipe
from .rows import FileRows, Rows, SkillRows, TraitRows
from .starts import BehaviourMatched, Continued, Grafted, Permuted
from .store import Store
from .students import Student

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
    "FileRows",
    "Files",
    "FineTuned",
    "Grafted",
    "Mixed",
    "Model",
    "Permuted",
    "Pretrained",
    "Recipe",
    "Rows",
    "Scores",
    "Shuffled",
    "SkillRows",
    "Store",
    "Student",
    "TraitRows",
    "Used",
]
