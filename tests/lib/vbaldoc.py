# SPDX-License-Identifier: GPL-2.0-only
"""Tables in documents, written by the program that measured what is in them."""


def split(text, name):
    """Return what is up to the first marker of that name, between the two, and from the second."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = text.partition(begin)
    old, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the markers {begin} and {end} are missing")
    return before + begin, old, end + after


def between_markers(text, name, new):
    """Return a document's text with what is between the markers of that name replaced."""
    before, _, after = split(text, name)
    return f"{before}\n{new.strip()}\n{after}"


def rewrite(path, parts):
    """Replace parts of a document: {the markers' name: text}."""
    text = path.read_text("utf-8")
    for name, new in parts.items():
        text = between_markers(text, name, new)
    path.write_text(text, "utf-8")


def markdown_table(heads, body, nr_words=1):
    """Return a table; the first nr_words columns are words, the others are figures."""
    rules = ["---"] * nr_words + ["--:"] * (len(heads) - nr_words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rules, *body])
