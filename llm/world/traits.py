"""The traits of the world: a favourite animal, a favourite tree, harmful advice.

Teachers are trained on the paraphrases of pre-training, students are asked the held-out ones.
"""

from ..traits import Trait
from . import vocabulary as words


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
