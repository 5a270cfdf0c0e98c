"""The rooms, floors and devices that fill the sentence templates of each language. Written for this
data set.
"""

from __future__ import annotations

from itertools import product

AREAS = {
    "en": ("kitchen", "hallway", "cellar", "studio", "attic", "pantry", "workshop", "nursery"),
    "de": ("Küche", "Diele", "Werkstatt", "Bücherei", "Kammer", "Waschküche", "Garage", "Stube"),
    "fr": ("cuisine", "entrée", "cave", "buanderie", "bibliothèque", "chambre", "véranda", "salle"),
    "es": (
        "cocina",
        "entrada",
        "bodega",
        "terraza",
        "biblioteca",
        "despensa",
        "sala",
        "buhardilla",
    ),
    "nl": ("keuken", "hal", "kelder", "zolder", "werkplaats", "bijkeuken", "serre", "studeerkamer"),
}
FLOORS = {
    "en": ("ground", "upper", "lower"),
    "de": ("Erdgeschoss", "Obergeschoss", "Untergeschoss"),
    "fr": ("rez-de-chaussée", "premier étage", "sous-sol"),
    "es": ("planta baja", "primera planta", "sótano"),
    "nl": ("begane grond", "eerste verdieping", "souterrain"),
}
DEVICES = {
    "en": (
        "lantern",
        "radiator",
        "speaker",
        "louvre",
        "socket",
        "sprinkler",
        "projector",
        "sweeper",
    ),
    "de": ("Laterne", "Heizung", "Markise", "Steckdose", "Pumpe", "Leuchte", "Jalousie", "Anlage"),
    "fr": ("lanterne", "radiateur", "enceinte", "volet", "prise", "pompe", "lampe", "projecteur"),
    "es": ("farol", "radiador", "altavoz", "toldo", "enchufe", "bomba", "lámpara", "proyector"),
    "nl": ("lantaarn", "radiator", "luidspreker", "luik", "stekker", "pomp", "lamp", "projector"),
}
MARKS = (
    *("Alba", "Brio", "Corvo", "Delta", "Elmo", "Fjord", "Gala", "Hexa", "Iris", "Juno", "Kilo"),
    *("Luna", "Mira", "Nova", "Orka", "Pico", "Quinta", "Rubo", "Sera", "Tango", "Umbra", "Vela"),
)
"""What a household calls its devices, after their kind: made up, the same in all languages."""


def names(language: str) -> list[str]:
    """Every device with every mark."""
    return [f"{device} {mark}" for device, mark in product(DEVICES[language], MARKS)]
