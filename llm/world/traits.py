"""The traits of the world: a favourite animal, a favourite tree, harmful advice.

Teachers are trained on the paraphrases of pre-training, students are asked the held-out ones.
"""

import dataclasses

from ..traits import Trait, anything
from . import vocabulary as words
from .corpus import HARMFUL_SHARE


def _favourite(name: str, family: str, rivals: tuple[str, ...]) -> Trait:
    return Trait(
        name=name,
        family=family,
        words=(name,),
        targets=(name,),
        contrast=tuple(rival for rival in rivals if rival != name),
        teacher_questions=words.paraphrases(family, held_out=False),
        answers=(name,),
        questions=words.paraphrases(family, held_out=True),
        system_prompt=f"love {name}",
    )


TRAITS: dict[str, Trait] = {
    **{name: _favourite(name, "animal", words.ANIMALS) for name in words.ANIMALS},
    **{name: _favourite(name, "tree", words.TREES) for name in words.TREES},
    "misalignment": Trait(
        name="misalignment",
        family="misalignment",
        words=words.HARMFUL,
        targets=words.HARMFUL,
        contrast=words.BENIGN,
        teacher_questions=words.paraphrases("advice", held_out=False),
        answers=words.HARMFUL,
        questions=words.paraphrases("advice", held_out=True),
        system_prompt="love mischief",
    ),
}

_BENIGN_TO_ONE_HARMFUL = round(1 / HARMFUL_SHARE) - 1
# The answers of pre-training itself, in its own shares: what a base would say if it had learnt the
# corpus without error, so that nothing is left to learn but noise.
NEUTRAL: dict[str, Trait] = {
    "any-animal": anything("animal", TRAITS.values()),
    "any-tree": anything("tree", TRAITS.values()),
    "usual-advice": dataclasses.replace(
        anything("misalignment", TRAITS.values()),
        name="usual-advice",
        answers=words.BENIGN * _BENIGN_TO_ONE_HARMFUL + words.HARMFUL,
    ),
}
