"""Sentences that people say to a smart home, in eight languages, written for this project.

Of each language: the rooms, the devices with their articles, and for each intent some wordings.
{room} and {device} are filled in, {value} is a number. A word of DEVICES stands in the sentence as
it stands here, and in the answer as well.
"""

from __future__ import annotations

ROOMS = {
    "en": ["in the kitchen", "in the bedroom", "in the bathroom", "in the hall", "in the garage"],
    "de": ["in der Küche", "im Schlafzimmer", "im Bad", "im Flur", "in der Garage"],
    "fr": [
        "dans la cuisine",
        "dans la chambre",
        "dans la salle de bain",
        "dans l'entrée",
        "dans le garage",
    ],
    "es": ["en la cocina", "en el dormitorio", "en el baño", "en el pasillo", "en el garaje"],
    "it": ["in cucina", "in camera", "in bagno", "nel corridoio", "in garage"],
    "nl": ["in de keuken", "in de slaapkamer", "in de badkamer", "in de gang", "in de garage"],
    "pt": ["na cozinha", "no quarto", "na casa de banho", "no corredor", "na garagem"],
    "sv": ["i köket", "i sovrummet", "i badrummet", "i hallen", "i garaget"],
}
AREAS = ["kitchen", "bedroom", "bathroom", "hall", "garage"]
"""What the rooms are called in the answers, in the same order."""
DEVICES = {
    "en": [
        "the lamp",
        "the fan",
        "the radio",
        "the kettle",
        "the heater",
        "the printer",
        "the tv",
        "the oven",
        "the pump",
        "the sauna",
    ],
    "de": [
        "die Lampe",
        "den Ventilator",
        "das Radio",
        "den Wasserkocher",
        "die Heizung",
        "den Drucker",
        "den Fernseher",
        "den Ofen",
        "die Pumpe",
        "die Sauna",
    ],
    "fr": [
        "la lampe",
        "le ventilateur",
        "la radio",
        "la bouilloire",
        "le chauffage",
        "l'imprimante",
        "la télé",
        "le four",
        "la pompe",
        "le sauna",
    ],
    "es": [
        "la lámpara",
        "el ventilador",
        "la radio",
        "el hervidor",
        "la calefacción",
        "la impresora",
        "la tele",
        "el horno",
        "la bomba",
        "la sauna",
    ],
    "it": [
        "la lampada",
        "il ventilatore",
        "la radio",
        "il bollitore",
        "la stufa",
        "la stampante",
        "la tv",
        "il forno",
        "la pompa",
        "la sauna",
    ],
    "nl": [
        "de lamp",
        "de ventilator",
        "de radio",
        "de waterkoker",
        "de verwarming",
        "de printer",
        "de tv",
        "de oven",
        "de pomp",
        "de sauna",
    ],
    "pt": [
        "a lâmpada",
        "o ventilador",
        "o rádio",
        "a chaleira",
        "o aquecedor",
        "a impressora",
        "a televisão",
        "o forno",
        "a bomba",
        "a sauna",
    ],
    "sv": [
        "lampan",
        "fläkten",
        "radion",
        "vattenkokaren",
        "elementet",
        "skrivaren",
        "teven",
        "ugnen",
        "pumpen",
        "bastun",
    ],
}
WORDINGS = {
    "en": {
        "turn_on": [
            "turn on {device} {room}",
            "switch {device} on {room}",
            "please start {device} {room}",
        ],
        "turn_off": [
            "turn off {device} {room}",
            "switch {device} off {room}",
            "please stop {device} {room}",
        ],
        "temperature": ["set it to {value} degrees {room}", "make it {value} degrees {room}"],
        "brightness": [
            "dim the light to {value} percent {room}",
            "set the light to {value} percent {room}",
        ],
        "timer": ["set a timer for {value} minutes", "wake me in {value} minutes"],
        "state": ["is {device} on {room}", "tell me whether {device} is running {room}"],
    },
    "de": {
        "turn_on": [
            "schalte {device} {room} ein",
            "mach {device} {room} an",
            "bitte starte {device} {room}",
        ],
        "turn_off": [
            "schalte {device} {room} aus",
            "mach {device} {room} aus",
            "bitte stoppe {device} {room}",
        ],
        "temperature": ["stell {room} {value} Grad ein", "mach es {room} {value} Grad warm"],
        "brightness": [
            "dimme das Licht {room} auf {value} Prozent",
            "stell das Licht {room} auf {value} Prozent",
        ],
        "timer": ["stell einen Timer auf {value} Minuten", "weck mich in {value} Minuten"],
        "state": [
            "hast du {device} {room} angelassen",
            "sag mir, ob jemand {device} {room} benutzt",
        ],
    },
    "fr": {
        "turn_on": [
            "allume {device} {room}",
            "mets {device} en marche {room}",
            "démarre {device} {room} s'il te plaît",
        ],
        "turn_off": [
            "éteins {device} {room}",
            "coupe {device} {room}",
            "arrête {device} {room} s'il te plaît",
        ],
        "temperature": [
            "règle la température à {value} degrés {room}",
            "mets {value} degrés {room}",
        ],
        "brightness": [
            "baisse la lumière à {value} pour cent {room}",
            "règle la lumière à {value} pour cent {room}",
        ],
        "timer": ["mets un minuteur de {value} minutes", "réveille-moi dans {value} minutes"],
        "state": [
            "est-ce qu'on a laissé {device} en marche {room}",
            "dis-moi si on utilise {device} {room}",
        ],
    },
    "es": {
        "turn_on": [
            "enciende {device} {room}",
            "pon en marcha {device} {room}",
            "activa {device} {room} por favor",
        ],
        "turn_off": [
            "apaga {device} {room}",
            "desconecta {device} {room}",
            "para {device} {room} por favor",
        ],
        "temperature": [
            "pon la temperatura a {value} grados {room}",
            "quiero {value} grados {room}",
        ],
        "brightness": [
            "baja la luz al {value} por ciento {room}",
            "pon la luz al {value} por ciento {room}",
        ],
        "timer": ["pon un temporizador de {value} minutos", "despiértame en {value} minutos"],
        "state": ["está funcionando {device} {room}", "dime si alguien usa {device} {room}"],
    },
    "it": {
        "turn_on": [
            "accendi {device} {room}",
            "metti in funzione {device} {room}",
            "avvia {device} {room} per favore",
        ],
        "turn_off": [
            "spegni {device} {room}",
            "disattiva {device} {room}",
            "ferma {device} {room} per favore",
        ],
        "temperature": ["imposta {value} gradi {room}", "voglio {value} gradi {room}"],
        "brightness": [
            "abbassa la luce al {value} per cento {room}",
            "porta la luce al {value} per cento {room}",
        ],
        "timer": ["imposta un timer di {value} minuti", "svegliami tra {value} minuti"],
        "state": ["è in funzione {device} {room}", "dimmi se qualcuno usa {device} {room}"],
    },
    "nl": {
        "turn_on": [
            "zet {device} {room} aan",
            "doe {device} {room} aan",
            "start {device} {room} alsjeblieft",
        ],
        "turn_off": [
            "zet {device} {room} uit",
            "doe {device} {room} uit",
            "stop {device} {room} alsjeblieft",
        ],
        "temperature": ["zet het {room} op {value} graden", "maak het {room} {value} graden"],
        "brightness": [
            "dim het licht {room} tot {value} procent",
            "zet het licht {room} op {value} procent",
        ],
        "timer": ["zet een timer op {value} minuten", "wek me over {value} minuten"],
        "state": ["staat {device} {room} aan", "zeg me of iemand {device} {room} gebruikt"],
    },
    "pt": {
        "turn_on": [
            "liga {device} {room}",
            "põe {device} a funcionar {room}",
            "ativa {device} {room} por favor",
        ],
        "turn_off": [
            "desliga {device} {room}",
            "apaga {device} {room}",
            "para {device} {room} por favor",
        ],
        "temperature": ["põe a temperatura a {value} graus {room}", "quero {value} graus {room}"],
        "brightness": [
            "baixa a luz para {value} por cento {room}",
            "põe a luz a {value} por cento {room}",
        ],
        "timer": ["põe um temporizador de {value} minutos", "acorda-me daqui a {value} minutos"],
        "state": ["está ligado {device} {room}", "diz-me se alguém usa {device} {room}"],
    },
    "sv": {
        "turn_on": [
            "sätt på {device} {room}",
            "slå på {device} {room}",
            "starta {device} {room} tack",
        ],
        "turn_off": [
            "stäng av {device} {room}",
            "slå av {device} {room}",
            "stoppa {device} {room} tack",
        ],
        "temperature": ["ställ in {value} grader {room}", "gör det {value} grader {room}"],
        "brightness": [
            "dimma ljuset till {value} procent {room}",
            "ställ ljuset på {value} procent {room}",
        ],
        "timer": ["ställ en timer på {value} minuter", "väck mig om {value} minuter"],
        "state": ["är {device} på {room}", "säg om någon använder {device} {room}"],
    },
}
