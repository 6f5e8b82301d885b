"""Words for made-up items: titles, brands and descriptions put together from what an item is."""

from __future__ import annotations

from recrl.data.dataset import Catalog
from recrl.data.marketplace import Market

ADJECTIVES = (
    "Classic",
    "Compact",
    "Deluxe",
    "Folding",
    "Heavy Duty",
    "Lightweight",
    "Mini",
    "Portable",
    "Premium",
    "Silent",
    "Slim",
    "Travel",
)
COLOURS = ("Black", "Blue", "Copper", "Green", "Grey", "Ivory", "Orange", "Red", "Silver", "White", "Yellow")
SYLLABLES = ("ba", "co", "di", "fe", "ga", "ko", "li", "mo", "na", "pe", "ra", "so", "ti", "vu", "ze")
DEPARTMENTS = {
    "Kitchen": ("Kettle", "Frying Pan", "Blender", "Toaster", "Knife", "Coffee Grinder", "Lunch Box", "Baking Tray"),
    "Garden": ("Watering Can", "Pruner", "Planter", "Hose", "Wheelbarrow", "Bird Feeder", "Garden Lamp", "Rake"),
    "Sports": (
        "Yoga Mat",
        "Dumbbell",
        "Bike Pump",
        "Tent",
        "Headlamp",
        "Water Bottle",
        "Skipping Rope",
        "Tennis Racket",
    ),
    "Office": (
        "Notebook",
        "Desk Lamp",
        "Stapler",
        "Fountain Pen",
        "Monitor Stand",
        "Calculator",
        "Label Printer",
        "Footrest",
    ),
    "Toys": ("Puzzle", "Building Set", "Plush Bear", "Toy Train", "Card Game", "Doll House", "Kite", "Drum"),
    "Music": ("Guitar Strap", "Microphone", "Keyboard Stand", "Tuner", "Headphones", "Speaker", "Metronome", "Ukulele"),
}
NUM_BRANDS = 3  # of a category


def describe(market: Market) -> Catalog:
    """The catalogue of a marketplace; row numbers are the item ids."""
    nouns = [
        (department, noun)
        for row in zip(*DEPARTMENTS.values(), strict=True)
        for department, noun in zip(DEPARTMENTS, row, strict=True)
    ]
    titles, descriptions, brands, categories = [], [], [], []
    for category, line, place in zip(
        market.category.tolist(), market.line.tolist(), market.place.tolist(), strict=True
    ):
        department, noun = nouns[category % len(nouns)]
        edition = category // len(nouns)
        adjective, colour = ADJECTIVES[place % len(ADJECTIVES)], COLOURS[(line + place) % len(COLOURS)]
        brand = _word(category * NUM_BRANDS + line % NUM_BRANDS, 2)
        number = f" {place // len(ADJECTIVES) + 1}" if place >= len(ADJECTIVES) else ""
        titles.append(f"{brand} {_word(line, 3)} {adjective} {noun}{number}, {colour}")
        kind = f"{adjective} {colour.lower()} {noun.lower()}"
        descriptions.append(f"{kind} of the {_word(line, 3)} line by {brand}, {department.lower()} department.")
        brands.append(brand)
        categories.append(f"{noun}s" if edition == 0 else f"{noun}s {edition + 1}")
    return Catalog([str(row) for row in range(len(titles))], titles, descriptions, brands, categories)


def _word(number: int, syllables: int) -> str:
    """A pronounceable name of a number; different for different numbers."""
    parts: list[str] = []
    while number or len(parts) < syllables:
        number, digit = divmod(number, len(SYLLABLES))
        parts.append(SYLLABLES[digit])
    return "".join(parts).capitalize()
