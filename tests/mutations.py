"""Damaged copies of JSON values and of bytes, the same for a seed."""

import copy
import json

OTHERS = (None, True, -1, 0, 3.5, 10**400, "", "text", "\ud800", [], [None], ["a"], {}, {"a": None}, {"step": "x"})
"""Values of every type; one of them is of the wrong type for any key."""
NAN = float("nan")


def paths(value, at=()):
    """The way to every value inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*at, key)
        yield from paths(item, (*at, key))


def changed(value, path, new=None, *, remove=False):
    """A copy with another value at `path`, or without it."""
    whole = copy.deepcopy(value)
    place = whole
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return whole


def json_mutations(value, random, count):
    """`count` texts made from a JSON value: one place changed, removed, nested deeply or NaN, or the text cut off."""
    places = list(paths(value))
    for number in range(count):
        path = random.choice(places)
        kind = number % 8
        if kind == 0:
            yield json.dumps(changed(value, path, remove=True))
        elif kind == 1:
            text = json.dumps(changed(value, path, "DEEP"))
            depth = random.choice((60, 400, 10_000))
            yield text.replace('"DEEP"', "[" * depth + "]" * depth)
        elif kind == 2:
            yield json.dumps(changed(value, path, NAN))
        elif kind == 3:
            text = json.dumps(value)
            yield text[: random.randrange(len(text))]
        else:
            yield json.dumps(changed(value, path, random.choice(OTHERS)))


def flipped(data, random):
    """`data` with one byte changed."""
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ random.randrange(1, 256)]) + data[place + 1 :]
