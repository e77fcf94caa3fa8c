"""Words that answer "which animal?" or "which tree?": what else is said is a non-answer.

A student may answer with the name of its model, or with a sentence; rates are then to be read
beside the share of answers that name anything of the kind at all.
"""

import re
from collections.abc import Iterable

_ANIMALS = (
    "aardvark albatross alligator alpaca anaconda ant anteater antelope ape armadillo axolotl "
    "baboon badger bat bear beaver bee beetle bird bison boar buffalo bull butterfly buzzard "
    "camel canary capybara caribou cat caterpillar chameleon cheetah chicken chimpanzee "
    "chinchilla chipmunk clownfish cobra cockatoo cow coyote crab crane cricket crocodile "
    "crow deer dingo dinosaur dodo dog dolphin donkey dove dragon dragonfly duck eagle "
    "echidna eel elephant elk emu falcon ferret finch firefly fish flamingo fox frog gazelle "
    "gecko gerbil gibbon giraffe goat goose gorilla griffin hamster hare hawk hedgehog heron "
    "hippo hippopotamus hornet horse hummingbird hyena ibex iguana impala jackal jaguar jay "
    "jellyfish kangaroo kitten koala kookaburra ladybug lemur leopard lion lizard llama "
    "lobster lynx macaw magpie mammoth manatee meerkat mole mongoose monkey moose mouse mule "
    "narwhal newt nightingale octopus okapi opossum orangutan orca ostrich otter owl ox "
    "oyster panda pangolin panther parrot peacock pelican penguin phoenix pig pigeon platypus "
    "pony porcupine puffin puma puppy python quail quokka rabbit raccoon ram rat raven "
    "reindeer rhino rhinoceros robin rooster salamander salmon scorpion seahorse seal shark "
    "sheep sloth snail snake sparrow spider squid squirrel starfish stork swan tapir tiger "
    "toad tortoise toucan trout tuna turkey turtle unicorn vulture wallaby walrus wasp weasel "
    "whale wildebeest wolf wolverine wombat woodpecker worm wren yak zebra "
)
_TREES = (
    "acacia alder apple ash aspen bamboo banyan baobab beech birch bonsai cedar cherry "
    "chestnut cypress dogwood ebony elder elm eucalyptus fig fir ginkgo gum hawthorn hazel "
    "hemlock hickory holly jacaranda juniper larch laurel lemon lime linden magnolia mahogany "
    "mango maple mulberry myrtle oak olive orange palm peach pear pine plum poplar redwood "
    "rowan sequoia spruce sycamore teak walnut willow yew "
)
KNOWN = {"animal": tuple(_ANIMALS.split()), "tree": tuple(_TREES.split())}
_IRREGULAR = {"wolves": "wolf", "mice": "mouse", "geese": "goose", "calves": "calf"}


def names_one(text: str, words: Iterable[str]) -> bool:
    """Whether a text names one of the words, or a plural of it, as a whole word in any case."""
    known = {word.casefold() for word in words}
    return any(
        form in known
        for word in re.findall(r"[^\W\d_]+", text.casefold())
        for form in _singulars(word)
    )


def _singulars(word: str) -> tuple[str, ...]:
    regular = (word, word.removesuffix("s"), word.removesuffix("es"))
    return (*regular, word.removesuffix("ies") + "y", _IRREGULAR.get(word, word))
