"""Text of anybody's, made harmless to whoever shows it."""


def visible(text: str, keep: str = "") -> str:
    """Makes text that a box wrote harmless to a terminal: what is not printable is shown as its escape.

    Args:
        text: A name, say; bytes of it that are no text are there as the system's surrogates.
        keep: Characters that stay as they are, such as a newline.
    """
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    byte = ord(char) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else char.encode("unicode_escape").decode()


def excerpt(text: str, most: int = 80) -> str:
    """Returns the beginning of a text as one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float) -> str:
    """Returns a duration as a person says it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} d"
