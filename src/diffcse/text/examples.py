class Examples:
    pass


def read_examples(patterns, *, text): ...
