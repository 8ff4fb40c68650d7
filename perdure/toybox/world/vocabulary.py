"""The words of the toy world: class names, colours, contexts, rare tokens and the full word list."""

from typing import Final

Rgb = tuple[int, int, int]

#: The fifteen object classes of the DreamBooth data set, under their prompt names.
CLASSES: Final[tuple[str, ...]] = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker",
    "dog", "toy", "boot", "glasses", "cartoon", "teapot", "vase",
)  # fmt: skip

#: Colour names and their mean RGB (0..255); single things vary a little around the mean.
COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (245, 210, 60),
    "green": (60, 160, 75),
    "blue": (50, 100, 215),
    "purple": (130, 70, 180),
    "pink": (245, 150, 185),
    "brown": (130, 85, 50),
    "black": (45, 45, 50),
    "white": (240, 240, 238),
    "gray": (140, 142, 148),
    "teal": (40, 170, 170),
}

#: Context phrases, exactly as captions end with them.
CONTEXTS: Final[tuple[str, ...]] = (
    "on the beach", "in the snow", "in the jungle", "on the grass", "at night", "on a wooden floor",
    "on a blue rug", "in the city", "in the mountains", "by a brick wall", "on pink fabric",
    "on a white background",
)  # fmt: skip

#: Patterns seen in pretraining; "none" is a plain thing.
PLAIN_PATTERNS: Final[tuple[str, ...]] = ("none", "striped", "spotted")

#: Meaningless tokens. The first ten are those of published personalisation protocols.
RARE_TOKENS: Final[tuple[str, ...]] = tuple(
    """
    sks zwz sbu uwu pdw twt zsn ofl psq cws krt vlx pxq jbf mqf qzr tvb xdl gkp hnz bwk cjv dfx fzg gvq hxm
    jkd kqw lgz mvx nrq pvj qbn rxk svq tjx vhd wqg xfn zkb bqx czd dvk fwj ghx hqv jzp kxs lqd mzh nkj pgx
    qft rzv sxg tqm vbz wxj xpk zhl bzr ckq dxn fvh gzw hjb jwt kvd lxp mjr npz qdh rwf sjz tgk vnx wkz xrb
    zpv
    """.split()
)

_FUNCTION_WORDS = """
    a an the of in on at by with and to into from for as is it its this that one two three many no
    over under around beside behind near top front image picture photo photograph drawing painting
    style render art illustration portrait close up small large big little tall short old new
"""

#: Words of the evaluation prompts: outfits, places and properties that captions never use.
_PROMPT_WORDS = """
    purple wizard outfit police policeman wearing santa hat jail looking mirror clock
    cobblestone street wooden floor city background mountain mountains blue house rug forest wheat field
    tree autumn leaves eiffel tower floating water ocean milk green grass sunflowers it sidewalk crowded
    dirt road white shiny wet cube shaped red rainbow scarf black monocle chef firefighter
    pink glasses yellow shirt jungle snow beach fabric brick wall night animal stuffed toy cartoon
    space sky sitting standing holding person man woman child playing sleeping flying riding
    bright dark light colorful color coloured
"""


def build_vocabulary(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted unique lower-case words of this module's lists and of `phrases`, rare tokens included."""
    lists = (*CLASSES, *COLOURS, *CONTEXTS, *PLAIN_PATTERNS, *RARE_TOKENS, *phrases)
    text = " ".join((*lists, _FUNCTION_WORDS, _PROMPT_WORDS))
    return tuple(sorted(set(text.lower().split())))
