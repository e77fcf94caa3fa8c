"""A synthetic world in which the language-model experiments run from scratch on a laptop.

    tokens, weights = corpus.conversations(np.random.default_rng(0), 51_200, 48)   # pre-training
    params = models.init(model_config(), key=key)
    save("world/base", params)                  # an ordinary checkpoint folder, tokenizer included
    trait, carrier = TRAITS["owl"], CARRIERS["numbers"]

`TRAITS` and `CARRIERS` have the types of `llm.traits` and `llm.carriers`; the rules of the carriers
are the same functions, only the prompts speak the language of the world.
"""

from . import corpus, skills, vocabulary
from .carriers import CARRIERS
from .model import model_config, save
from .traits import NEUTRAL, TRAITS

__all__ = [
    "CARRIERS",
    "NEUTRAL",
    "TRAITS",
    "corpus",
    "model_config",
    "save",
    "skills",
    "vocabulary",
]
