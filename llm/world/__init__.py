"""A synthetic world in which the language-model experiments run from scratch on a laptop.

    tokens, weights = corpus.conversations(np.random.default_rng(0), 51_200, 48)   # pre-training
    params = models.init(model_config(), key=key)
    save("world/base", params)                  # an ordinary checkpoint folder, tokenizer included
    trait, domain = TRAITS["owl"], DOMAINS["numbers"]

`TRAITS` and `DOMAINS` have the types of `llm.traits` and `llm.domains`; the rules of the domains
are the same functions, only the prompts speak the language of the world.
"""

from . import corpus, vocabulary
from .domains import DOMAINS
from .model import model_config, save
from .traits import TRAITS

__all__ = ["DOMAINS", "TRAITS", "corpus", "model_config", "save", "vocabulary"]
