"""Kinds of products, their attributes and how a catalogue speaks of each. All made up."""

from __future__ import annotations

MARKS = (
    *("Alder", "Braemar", "Cinder", "Dovetail", "Ember", "Fathom", "Garnet", "Harrow", "Inlet"),
    *("Juniper", "Kestrel", "Larkspur", "Mistral", "Nettle", "Osprey", "Plover", "Quarry", "Rowan"),
    *(
        "Sable",
        "Tarn",
        "Umber",
        "Vesper",
        "Willow",
        "Yarrow",
        "Zephyr",
        "Bramble",
        "Copse",
        "Drift",
    ),
)
COLOURS = (
    *("moss green", "slate grey", "brick red", "ivory", "midnight blue", "sand", "copper", "white"),
    *("charcoal", "ochre", "petrol", "rose"),
)
MATERIALS = (
    "steel",
    "oak",
    "glass",
    "linen",
    "cotton",
    "bamboo",
    "aluminium",
    "ceramic",
    "leather",
)
ORIGINS = ("Portugal", "Estonia", "Japan", "Slovenia", "Morocco", "Denmark", "Vietnam", "Ireland")
KINDS = {
    "kettle": {
        "capacity": ("1 l", "1.2 l", "1.5 l", "1.7 l", "2 l"),
        "power": ("1500 W", "2200 W", "3000 W"),
    },
    "desk lamp": {"power": ("5 W", "8 W", "12 W"), "height": ("35 cm", "42 cm", "58 cm")},
    "backpack": {
        "capacity": ("18 l", "24 l", "32 l", "45 l"),
        "weight": ("640 g", "820 g", "1100 g"),
    },
    "reading chair": {"width": ("72 cm", "80 cm", "95 cm"), "weight": ("14 kg", "19 kg", "23 kg")},
    "blender": {"capacity": ("0.6 l", "1.4 l", "1.8 l"), "power": ("350 W", "800 W", "1200 W")},
    "blanket": {"width": ("130 cm", "150 cm", "220 cm"), "weight": ("900 g", "1300 g", "1900 g")},
    "vase": {"height": ("18 cm", "26 cm", "40 cm"), "weight": ("500 g", "750 g", "1600 g")},
    "headset": {"battery": ("20 h", "30 h", "45 h"), "weight": ("180 g", "215 g", "260 g")},
    "bicycle bell": {"diameter": ("38 mm", "45 mm", "60 mm"), "weight": ("40 g", "65 g", "90 g")},
    "cutting board": {
        "width": ("24 cm", "30 cm", "45 cm"),
        "weight": ("700 g", "1200 g", "2100 g"),
    },
}
"""Kind of product -> its measures."""
OPENINGS = (
    "The {name} is a {kind} in {colour}, made of {material}.",
    "Meet the {name}, a {kind} of {material} in {colour}.",
    "{name}: a {kind} made of {material}, in {colour}.",
    "With the {name} you get a {kind} of {material}, in {colour}.",
)
MEASURES = {
    "capacity": ("It holds {value}.", "There is room for {value}.", "Its capacity is {value}."),
    "power": ("It draws {value}.", "Its power is {value}.", "It runs on {value}."),
    "height": ("It stands {value} tall.", "It is {value} high."),
    "width": ("It is {value} wide.", "Its width is {value}."),
    "weight": ("It weighs {value}.", "Its weight is {value}."),
    "battery": ("The battery lasts {value}.", "One charge lasts {value}."),
    "diameter": ("It measures {value} across.", "Its diameter is {value}."),
}
WARRANTIES = ("1 year", "2 years", "3 years", "5 years", "10 years")
CLOSINGS = {
    "warranty": ("It comes with a warranty of {value}.", "We give {value} of warranty."),
    "origin": ("It is made in {value}.", "Made in {value}.", "It comes to you from {value}."),
}
