"""Numbers with their nouns, for lines that people read."""


def counted(number: int, noun: str) -> str:
    """Return `1 box` or `2 boxes` for `box`, and so on."""
    plural = f"{noun}es" if noun.endswith("x") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
