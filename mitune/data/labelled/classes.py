"""The classes of public data sets, in the words that a text-to-image model knows. Nothing here imports torch.

The numbers are those of the sets' label pictures; the words are those that *ELBO-T2IAlign* (2506.09740) asks its models
for, which are not always the sets' own names: "monitor" for "tvmonitor".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Classes:
    """Lists classes by number: the first has number 1, 0 is the background.

    >>> Classes("plane=aeroplane|jet, bicycle=bike").words, Classes("plane=aeroplane|jet, bicycle=bike").find("Jet")
    (('plane', 'bicycle'), 1)

    Attributes:
        text: a word each, parted by commas, with other words for the same after "=".
    """

    text: str

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The word that a prompt has for each."""
        return tuple(row.partition("=")[0] for row in self._rows)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of every word, synonyms among them; of a word that stands for several, the first."""
        found: dict[str, int] = {}
        for number, row in enumerate(self._rows, start=1):
            found.setdefault(row.partition("=")[0], number)
        for number, row in enumerate(self._rows, start=1):
            for word in filter(None, row.partition("=")[2].split("|")):
                found.setdefault(word, number)
        return found

    def find(self, word: str) -> int | None:
        """Give the number of a class by one of its words, whatever their case; None for a word of none."""
        return self.numbers.get(" ".join(word.lower().split()))

    @cached_property
    def _rows(self) -> list[str]:
        return [" ".join(part.split()) for part in self.text.split(",")]


VOC = Classes("""
plane=aeroplane|airplane|jet, bicycle=bike, bird, boat=ship|canoe|sailboat, bottle, buses=bus, car=cab|taxi, cat=kitten,
chair=stool, cow=cattle|bull, table=dining table|diningtable|desk, dog=puppy, horse=pony,
motorbike=motorcycle|scooter, people=person|man|woman|boy|girl|child|baby, plant=potted plant|pottedplant,
sheep=lamb|goat, sofa=couch, train=locomotive, monitor=tvmonitor|tv|television|screen
""")
CONTEXT = Classes("""
airplane=aeroplane|plane|jet, bag, bed, bedclothes, bench, bicycle=bike, bird, boat=ship|canoe|sailboat, book, bottle,
building, bus, cabinet, car=cab|taxi, cat=kitten, ceiling, chair=stool, cloth, computer, cow=cattle|bull, cup, curtain,
dog=puppy, door, fence, floor, flower, food=pizza, grass, ground, horse=pony, keyboard, light,
motorbike=motorcycle|scooter, mountain, mouse, person=people|man|woman|boy|girl|child|baby, plate, platform,
plant=potted plant|pottedplant, road, rock, sheep=lamb|goat, shelves, sidewalk, sign, sky, snow, sofa=couch, table,
track, train, tree, truck, monitor=tvmonitor|tv|television|screen, wall, water, window, wood
""")
COCO = Classes("""
person=people|man|woman|boy|girl|child|baby, bicycle=bike, car=cab|taxi, motorbike=motorcycle|scooter,
aeroplane=airplane|plane|jet, bus, train=locomotive, truck=van, boat=ship|canoe|sailboat, traffic light=stoplight,
fire hydrant=hydrant, stop sign, parking meter, bench, bird, cat=kitten, dog=puppy, horse=pony, sheep=lamb|goat,
cow=cattle|bull, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, necktie=tie, suitcase=luggage, frisbee,
skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog=hotdog, pizza,
donut=doughnut, cake, chair=stool, sofa=couch, pottedplant=potted plant, bed, diningtable=dining table,
closestool=toilet, tvmonitor=tv|television|monitor, laptop, computer mouse=mouse, remote controller=remote, keyboard,
cell phone=phone|mobile phone, microwave, oven=stove, toaster, hand sink=sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
""")
"""The 80 things of COCO; the stuff that follows them counts as background, as in GroupViT."""
ADE = Classes("""
wall, building=edifice, sky, floor=flooring, tree, ceiling, road=route, bed, windowpane=window, grass, cabinet,
sidewalk=pavement, person=individual, earth=ground, door=double door, table, mountain=mount, plant=flora,
curtain=drape, chair, car=automobile, water, painting=picture, sofa=couch, shelf, house, sea, mirror, rug=carpet,
field, armchair, seat, fence=fencing, desk, rock=stone, wardrobe=closet, lamp, bathtub=bath|tub, railing=rail, cushion,
base=pedestal, box, column=pillar, signboard=sign, chest of drawers=dresser, counter, sand, sink, skyscraper,
fireplace=hearth, refrigerator=icebox, grandstand, path, stairs=steps, runway, case=showcase, pool table=billiard table,
pillow, screen door, stairway=staircase, river, bridge=span, bookcase, blind, coffee table=cocktail table,
toilet=commode, flower, book, hill, bench, countertop, stove=kitchen stove, palm=palm tree, kitchen island, computer,
swivel chair, boat, bar, arcade machine, hovel=hut|shack, bus=autobus|coach, towel, light=light source, truck, tower,
chandelier=pendant, awning=sunshade, streetlight=street lamp, booth=kiosk, television receiver=television|tv,
airplane=aeroplane|plane, dirt track, apparel=clothes|dress, pole, land=soil, bannister=handrail|balustrade,
escalator, ottoman=pouf, bottle, buffet=sideboard, poster=placard, stage, van, ship, fountain,
conveyer belt=conveyor belt, canopy, washer=washing machine, plaything=toy, swimming pool, stool, barrel=cask,
basket, waterfall=falls, tent, bag, minibike=motorbike, cradle, oven, ball, food, step=stair, tank, trade name=brand,
microwave, pot=flowerpot, animal=beast|creature, bicycle=bike, lake, dishwasher, screen, blanket, sculpture, hood,
sconce, vase, traffic light=stoplight, tray, ashcan=trash can|dustbin, fan, pier=wharf|dock, crt screen, plate,
monitor, bulletin board=notice board, shower, radiator, glass=drinking glass, clock, flag
""")
