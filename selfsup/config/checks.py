"""How settings are checked when they are made: what must hold, and a sentence where it does not."""


def require(holds: bool, sentence: str) -> None:
    """Raise ValueError with the sentence where something does not hold.

    Args:
        holds: written as what must be true, so that a number that is none fails too.
        sentence: names the setting and its value, what is allowed, and the remedy.
    """
    if not holds:
        raise ValueError(sentence)
