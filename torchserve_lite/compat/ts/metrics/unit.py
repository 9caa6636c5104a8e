"""Short names of units, as handlers give them, and the words that metrics lines carry."""

UNITS = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}


class Units:
    """The same table where TorchServe has it."""

    def __init__(self) -> None:
        self.units = dict(UNITS)


def unit_word(unit: str | None) -> str:
    """A unit that is not in the table is kept as it is."""
    return UNITS[unit] if unit is None or unit in UNITS else unit
