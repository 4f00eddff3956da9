"""The public benchmarks, a row each: their prompts, how many pictures each gets, who judges, what others published.

A new benchmark is a row here and a file in ``evaluate/benchmarks`` that knows its prompt files and its folders. Nothing
here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.parts import Catalogue, Part
from mitune.settings import BATCH, CANDIDATES, ROUNDS, ROWS, Settings, key, section


@dataclass(frozen=True)
class Original:
    """Says who judged a category for the published numbers.

    Attributes:
        said: the judge, in words.
        judge: the score here that is the same judge; "" where none is.
        settings: its keys as the benchmark has them.
        why: what differs, where no judge here is the same.
    """

    said: str
    judge: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Category:
    """Holds a category: its name in files and tables, the key ``benchmark.judge.KIND`` that says who judges it, how
    many prompts its file has (by split), and who judged the published numbers."""

    name: str
    kind: str
    prompts: Mapping[str, int]
    original: Original


@dataclass(frozen=True)
class Published:
    """Holds what a paper says of a model: its score by category, ``overall`` where the benchmark has one."""

    model: str
    source: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Benchmark(Part):
    """Says what a benchmark is. ``make``: the module and class of its files (:mod:`mitune.evaluate.benchmarks`).

    Attributes:
        title: its name in words.
        per_prompt: pictures of each prompt.
        splits: the parts of its prompts that can be asked for, the one that counts first.
        categories: in the order of its tables.
        published: what others have said.
        overall: whether it has a score over all categories: the mean of their means.
        home: where its prompt files come from.
    """

    title: str = ""
    per_prompt: int = 0
    splits: tuple[str, ...] = ()
    categories: tuple[Category, ...] = ()
    published: tuple[Published, ...] = ()
    overall: bool = False
    home: str = ""

    def category(self, name: str) -> Category:
        """Find a category by its name."""
        return next(one for one in self.categories if one.name == name)


_BLIP = Original(
    "BLIP-VQA", "blip_vqa", {"path": "Salesforce/blip-vqa-capfilt-large", "form": "published", "side": 480}
)
_UNIDET = Original("UniDet", why="it needs detectron2 and weights that are not maintained")
_DEPTH = Original("UniDet with DPT-hybrid", why=f"of UniDet: {_UNIDET.why}")
_COSINE = Original(
    "the cosine of CLIP ViT-B/32", "clip", {"path": "openai/clip-vit-base-patch32", "form": "cosine"}
)
_THREE = Original("BLIP-VQA, UniDet and CLIP ViT-B/32 together", why=f"of UniDet: {_UNIDET.why}")
_MASKS = Original(
    "Mask2Former (swin-s, of mmdet 2) with CLIP ViT-L/14",
    why="the Mask2Former of transformers has other weights than that of mmdet",
)

# Lines of the files: 700 to train on, 300 held out; of three categories the words of the first 200 were seen.
_LINES = {"val": 300, "train": 700}
_SEEN = _LINES | {"val_seen": 200, "val_unseen": 100}

_HUANG = "Huang et al. 2023 (arXiv 2307.06350)"
_GHOSH = "Ghosh et al. 2023 (arXiv 2310.11513), and its README"


def _geneval(name: str, overall: float, *scores: float) -> Published:
    """A row of GenEval's table, in the order of its tasks."""
    return Published(name, _GHOSH, {**dict(zip(_TASKS, scores, strict=True)), "overall": overall})


_TASKS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}

BENCHMARKS: Catalogue[Benchmark] = Catalogue(
    "benchmark",
    Benchmark(
        "t2i_compbench",
        "T2I-CompBench: attributes, places, numbers and relations, 300 prompts each",
        "mitune.evaluate.benchmarks.compbench:CompBench",
        title="T2I-CompBench",
        per_prompt=10,
        splits=tuple(_SEEN),
        categories=(
            Category("color", "attribute", _SEEN, _BLIP),
            Category("shape", "attribute", _SEEN, _BLIP),
            Category("texture", "attribute", _SEEN, _BLIP),
            Category("spatial", "spatial", _LINES, _UNIDET),
            Category("3d_spatial", "depth", _LINES, _DEPTH),
            Category("numeracy", "numeracy", _LINES, _UNIDET),
            Category("non_spatial", "action", _LINES, _COSINE),
            Category("complex", "complex", _LINES, _THREE),
        ),
        published=(
            Published(
                "Stable Diffusion v1-4", _HUANG,
                {"color": 0.3765, "shape": 0.3576, "texture": 0.4156, "spatial": 0.1246, "non_spatial": 0.3079,
                 "complex": 0.3080},
            ),
            Published("Stable Diffusion v2", _HUANG, {"color": 0.5065, "shape": 0.4221, "texture": 0.4922,
                                                      "spatial": 0.1342}),
        ),
        home="examples/dataset of github.com/Karine-Huang/T2I-CompBench",
    ),
    Benchmark(
        "geneval",
        "GenEval: objects, their number, colours and places, 553 prompts",
        "mitune.evaluate.benchmarks.geneval:GenEval",
        title="GenEval",
        per_prompt=4,
        splits=("all",),
        categories=tuple(Category(name, "objects", {"all": prompts}, _MASKS) for name, prompts in _TASKS.items()),
        published=(
            _geneval("Stable Diffusion v1.5", 0.43, 0.97, 0.38, 0.35, 0.76, 0.04, 0.06),
            _geneval("Stable Diffusion v2.1", 0.50, 0.98, 0.51, 0.44, 0.85, 0.07, 0.17),
            _geneval("Stable Diffusion XL", 0.55, 0.98, 0.74, 0.39, 0.85, 0.15, 0.23),
            _geneval("IF-XL", 0.61, 0.97, 0.74, 0.66, 0.81, 0.13, 0.35),
        ),
        overall=True,
        home="prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval",
    ),
)  # fmt: skip


@dataclass
class JudgesConfig(Settings):
    """Names the judge of a category, by what it is about: any judge of pictures."""

    attribute: str | None = key("blip_vqa", "of T2I-CompBench's color, shape and texture")
    spatial: str | None = key("spatial_owlv2", "of its spatial")
    depth: str | None = key("spatial_3d_owlv2", "of its 3d_spatial")
    numeracy: str | None = key("numeracy_owlv2", "of its numeracy")
    action: str | None = key("clip", "of its non_spatial")
    complex: str | None = key("three_in_one", "of its complex")
    objects: str | None = key("geneval", "of all tasks of GenEval")


@dataclass
class BenchmarkConfig(Settings):
    """Says which benchmark, of which files, and how it is judged."""

    name: str | None = key(None, "which one", choices=BENCHMARKS.meanings, basic=True)
    source: str | None = key(
        None, "its prompt files as they are: their folder, or one of them", path=True, basic=True
    )
    pictures: str | None = key(
        None,
        "judge these pictures, in the benchmark's own folders, instead of drawing",
        path=True,
        basic=True,
    )
    split: str | None = key(None, "part of its prompts: val, train, val_seen or val_unseen (default: val)")
    categories: list[str] = key(
        [], "only these (default: all that have prompts here, and a judge)", basic=True
    )
    limit: int | None = key(None, "prompts of a category, at most: a trial, no benchmark", low=1, high=ROWS)
    per_prompt: int | None = key(
        None, "pictures a prompt (default: the benchmark's)", low=1, high=CANDIDATES, basic=True
    )
    whole: bool = key(True, "refuse prompts that are not as many as the benchmark has")
    judge: JudgesConfig = section(JudgesConfig)
    round: int | None = key(
        None,
        "the round whose adapter is held against the base model (default: the last that is trained; 0: none)",
        low=0,
        high=ROUNDS,
        basic=True,
    )
    out: str | None = key(
        None,
        "the folder to write (default: RUN/benchmarks/001 and on; of pictures, beside them)",
        path=True,
        basic=True,
    )
    grid: bool = key(True, "a sheet of each prompt's pictures, where the benchmark's folders have one")
    batch_size: int = key(32, "pictures judged at once", low=1, high=BATCH)
    rows_per_unit: int = key(
        200, "pictures a unit; what a killed command loses at most", low=1, high=CANDIDATES
    )
