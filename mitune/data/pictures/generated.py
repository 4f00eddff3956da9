"""Pictures that are made here: the candidates of a run, and the embedded world's own."""

from __future__ import annotations

from PIL import Image

from mitune.data.dataset import encode_png
from mitune.data.pictures.rows import Pictures
from mitune.data.store import KEYS, LATENT_ROW, LEFT, PICTURE, UNIT, CandidateStore
from mitune.errors import UserError

WORLD_SIZE = 1000  # pictures of the embedded world where no limit is given: it has no end
WORLD_WRONG = 0.3  # share of its captions that are wrong, as in its training corpus


def read_candidates(store: CandidateStore) -> Pictures:
    """Read the kept candidates of a run: their latents are used as they are, their scores carried on."""
    folder, kept = store.folder, store.table(kept=True)
    if not len(kept):
        finished = len(store.table(columns=["kept"]))
        raise UserError(
            f"{folder} kept no latent of its {finished} candidates; generate again with generate.keep=1000"
        )
    scores = [name for name in kept.columns if name not in (*KEYS, PICTURE, LEFT, UNIT, LATENT_ROW)]
    keys = ("prompt_id", "category", "candidate", "seed")
    return Pictures(
        str(folder),
        kept["prompt"].tolist(),
        [
            f"{number} of {prompt_id}"
            for number, prompt_id in zip(kept["candidate"], kept["prompt_id"], strict=True)
        ],
        latents=lambda rows: store.latents(kept.iloc[list(rows)]),
        seeds=kept["seed"].tolist(),
        keys={name: kept[name].tolist() for name in keys},
        scores={name: kept[name].tolist() for name in scores},
        made_from=kept[PICTURE].tolist() if PICTURE in kept else None,
        left_out=len(store.table(dropped=True, columns=["kept"])) - len(kept),
    )


def read_world(count: int, seed: int) -> Pictures:
    """Draw pictures of the embedded world, one caption each, some of them wrong, as captions of the web are."""
    from mitune.worlds.shapes.corpus import build_corpus

    corpus = build_corpus(count, 1, WORLD_WRONG, seed)
    return Pictures(
        "the embedded world",
        [texts[0] for texts in corpus.texts],
        [f"of row {row}" for row in range(count)],
        lambda row: encode_png(Image.fromarray(corpus.pictures[row])),
    )
