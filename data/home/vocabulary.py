"""The names that fill the open slots of the sentence templates: rooms, devices, what is bought or
announced. Written for this data set; no real person, brand or work is meant.
"""

from __future__ import annotations

from itertools import product

AREAS = (
    *("kitchen", "living room", "bedroom", "bathroom", "hallway", "garage", "office", "attic"),
    *("basement", "dining room", "guest room", "nursery", "laundry room", "pantry", "porch"),
    *("sun room", "workshop", "library", "studio", "utility room", "cellar", "conservatory"),
)
FLOORS = ("ground", "first", "second", "top", "lower", "upper", "main", "third")
ZONES = ("home", "work", "school", "the gym", "the allotment", "the harbour", "the clinic")

PLACES = (
    *("reading", "corner", "bedside", "desk", "window", "stair", "mirror", "balcony", "shelf"),
    *("fireplace", "east wall", "piano", "aquarium", "loft", "entrance", "courtyard", "terrace"),
    *("sofa", "easel", "bookcase", "driveway", "greenhouse", "bay", "gallery", "alcove", "island"),
)
NOUNS = {
    "light": ("lantern", "spot", "strip", "sconce", "uplighter", "bulb"),
    "fan": ("ventilator", "blower", "air circulator"),
    "switch": ("socket", "plug", "relay"),
    "cover": ("roller", "louvre", "screen", "canopy", "hatch"),
    "lock": ("bolt", "latch", "deadlock"),
    "climate": ("thermostat", "radiator", "heat pump", "air conditioner"),
    "media_player": ("speaker", "television", "soundbar", "radio", "projector"),
    "vacuum": ("robot", "sweeper", "mop"),
    "lawn_mower": ("mower", "grass cutter"),
    "valve": ("tap", "sprinkler", "hydrant", "drip line"),
    "binary_sensor": ("contact", "motion sensor", "presence sensor"),
    "sensor": ("meter", "gauge", "probe"),
    "button": ("bell", "trigger"),
    "input_boolean": ("toggle", "override"),
    "scene": ("mood", "setting", "atmosphere"),
    "script": ("routine", "sequence"),
    "todo": ("chores", "errands", "jobs"),
    "weather": ("forecast", "weather station"),
}
PEOPLE = (
    *("anouk", "bertil", "chiara", "dmitri", "elif", "fatou", "gustav", "hana", "ibrahim", "jonna"),
    *("kofi", "lotte", "mateo", "nadia", "oskar", "priya", "quentin", "rosa", "soren", "tamar"),
)

QUANTITIES = ("", "two packs of ", "some ", "a bag of ", "organic ", "a jar of ", "frozen ")
GOODS = (
    *("oat milk", "lentils", "butter", "rye bread", "olives", "baking powder", "dish soap", "rice"),
    *("green apples", "cat food", "coffee beans", "tin foil", "leeks", "walnuts", "honey", "salt"),
    *("light bulbs", "toothpaste", "chickpeas", "paprika", "peaches", "vinegar", "yeast", "dates"),
)
VERBS = ("water", "repair", "clean", "paint", "call about", "return", "order", "measure", "sort")
THINGS = (
    *("the fence", "the tax papers", "the bicycle", "the tomato plants", "the old boxes"),
    *("the winter tyres", "the library books", "the drain", "the birthday cake", "the skis"),
    *("the smoke alarm", "the passport photos", "the hinges", "the compost", "the curtains"),
)
NEWS = ("dinner is", "the taxi is", "the guests are", "the bus is", "the pizza is", "grandma is")
STATES = ("ready", "here", "ten minutes late", "on the way", "at the door", "early today")
TITLES_FIRST = ("midnight", "copper", "silent", "paper", "golden", "northern", "velvet", "seven")
TITLES_LAST = ("rivers", "parade", "harvest", "orchard", "signals", "waltz", "lanterns", "voyage")
DISHES = ("egg", "pasta", "laundry", "bread", "tea", "nap", "yoga", "roast", "homework", "pizza")
ACTS = ("open the", "close the", "switch off the", "switch on the")


def pairs(first: tuple[str, ...], last: tuple[str, ...], between: str = " ") -> list[str]:
    """Every value of `first` before every value of `last`."""
    return [f"{one}{between}{other}" for one, other in product(first, last)]


def open_values() -> dict[str, list[str]]:
    """The values of each slot that takes any text, by the list's name in the templates. A part of
    them is never trained on.
    """
    return {
        "shopping_list_item": pairs(QUANTITIES, GOODS, ""),
        "todo_list_item": pairs(VERBS, THINGS),
        "message": pairs(NEWS, STATES),
        "search_query": pairs(TITLES_FIRST, TITLES_LAST),
        "timer_name": [*DISHES, *pairs(("second", "evening", "big"), DISHES)],
        "timer_command": pairs(ACTS, NOUNS["cover"] + NOUNS["light"] + NOUNS["valve"]),
    } | {f"name:{domain}": pairs(PLACES, nouns) for domain, nouns in NOUNS.items()}


def closed_values() -> dict[str, tuple[str, ...]]:
    """The values of each slot that a home has few of: all are trained on."""
    return {"area": AREAS, "floor": FLOORS, "zone": ZONES, "name:person": PEOPLE}
