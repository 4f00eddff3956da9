"""``select``: the best candidates of every prompt become the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from mitune.data.selection import choose, needed, scorers, select, thin, worst
from mitune.data.settings import SelectConfig
from mitune.data.store import UNIT, CandidateStore
from mitune.denoiser import Denoiser
from mitune.distributed import broadcast, state
from mitune.evaluate.drawings import png
from mitune.evaluate.evaluation import choose_examples
from mitune.files import write_bytes, write_json
from mitune.runs import RunFolder
from mitune.stages.artefacts import files_in, require
from mitune.stages.candidates import decode_rows
from mitune.stages.inputs import check_real, load_model, selecting, settings_of
from mitune.stages.real import RealPictures, choose_real, count_real
from mitune.stages.training_set import write_training_set

EXAMPLES = 12  # prompts whose best and worst candidates the report shows
SHOWN = 3  # pictures of each side


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The finished candidates of a round (``table``: the columns that choosing reads), and those chosen (``rows``:
    all columns, losers among them)."""

    store: CandidateStore
    table: pd.DataFrame
    rows: pd.DataFrame

    @property
    def winners(self) -> pd.DataFrame:
        return self.rows[self.rows["preferred"]]


def select_stage(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Write ``round-N/dataset`` and the examples of the report; gives the figures of ``summary.json``'s ``select``.

    The first process chooses; all of them decode what was chosen.
    """
    chosen = _choose(config, run, number) if state().is_main_process else None
    count = count_real(config, broadcast(lambda: len(chosen.rows)))  # type: ignore[union-attr]
    real = choose_real(config, run, number, count) if count else None
    # The pictures come from the decoder, which no adapter changes: the base model is enough.
    denoiser = load_model(config)
    if real is not None:
        check_real(config, denoiser)
    rows = None if chosen is None else _own(config, chosen, real)
    folder = run.round(number)
    write_training_set(
        folder / "dataset",
        CandidateStore(folder / "candidates"),
        rows,
        real,
        denoiser,
        config.generate.batch_size,
        number,
        broadcast(lambda: (run.mark(number, "generate") or {})["model"]),
    )
    return broadcast(lambda: _finish(config, run, number, chosen, rows, real, denoiser))  # type: ignore[arg-type]


def _choose(config: DictConfig, run: RunFolder, number: int) -> _Chosen:
    require(run, number, "generate")
    store = CandidateStore(run.round(number) / "candidates")
    by, choice = selecting(config), settings_of(SelectConfig, config.select)
    read = [*needed(store.columns(), by, choice), "oracle", "kept", UNIT]
    table = store.table(columns=read, coded=True)
    rows = choose(table, by, choice, config.seed)
    added = rows[["score", "rank", "preferred", "weight"]]
    return _Chosen(store, table, store.whole(rows).assign(**added))


def _own(config: DictConfig, chosen: _Chosen, real: RealPictures | None) -> pd.DataFrame:
    """Those of the chosen candidates that real pictures leave a place."""
    rows = chosen.rows
    return rows if real is None else thin(rows, len(rows) - len(real.picked), config.seed).assign(real=False)


def _finish(
    config: DictConfig,
    run: RunFolder,
    number: int,
    chosen: _Chosen,
    rows: pd.DataFrame,
    real: RealPictures | None,
    denoiser: Denoiser,
) -> dict[str, Any]:
    """The examples and the mark; gives the figures.

    Args:
        config, run, number: of the stage.
        chosen: all that was chosen.
        rows: those of it that are in the set.
        real: what else is.
        denoiser: decodes.
    """
    k, own = config.select.k, len(rows) > 0  # whether any candidate is trained on
    kept = int(rows["preferred"].sum())
    figures = {"by": config.select.by, "k": k, "kept": kept, **_oracle(chosen.table, chosen.winners, k, own)}
    if real is not None:
        figures["real"] = real.figures
        # The stage's own cost: where cost is summed up, it stands where every stage has it.
        figures |= {name: real.figures[name] for name in ("forwards", "seconds") if name in real.figures}
    folder = run.round(number)
    if own:
        _write_examples(config, run, number, chosen.store, chosen.table, denoiser)
    left = [*files_in(folder / "dataset"), folder / "candidates_examples.json"]
    left += sorted((folder / "pictures").glob("candidate-*.png"))
    left += [path for path in files_in(folder / "real") if path.suffix == ".parquet"]
    return run.write_mark(number, "select", figures, left)


def _oracle(table: pd.DataFrame, winners: pd.DataFrame, k: int, own: bool) -> dict[str, float | None]:
    """Mean oracle score of the pool, the winners, and the best possible winners. It judges; it chose nothing. None of
    them without an oracle, or where there are no winners (``own`` is False).

    Pool and best are of all prompts; ``…_kept_prompts`` are of those that ``select.fraction``, ``threshold`` or
    ``balance`` kept, which may be the easier ones.
    """
    if "oracle" not in table or not own:
        return {"oracle_pool": None, "oracle_kept": None, "oracle_best": None}
    kept = table[table["prompt_id"].isin(winners["prompt_id"])]
    return {
        "prompts": int(winners["prompt_id"].nunique()),
        "oracle_pool": float(table["oracle"].mean()),
        "oracle_kept": float(winners["oracle"].mean()),
        "oracle_best": float(select(table, "oracle", k)["oracle"].mean()),
        "oracle_pool_kept_prompts": float(kept["oracle"].mean()),
        "oracle_best_kept_prompts": float(select(kept, "oracle", k)["oracle"].mean()),
    }


def _write_examples(
    config: DictConfig,
    run: RunFolder,
    number: int,
    store: CandidateStore,
    table: pd.DataFrame,
    denoiser: Denoiser,
) -> None:
    """``candidates_examples.json``: best and worst kept candidates of some prompts, with their pictures and scores."""
    folder, by = run.round(number), selecting(config)
    kept = table.loc[table["kept"], ["prompt_id", "category", "candidate", UNIT]].reset_index(drop=True)
    ids = kept["prompt_id"].iloc[choose_examples(kept, EXAMPLES)].tolist()
    kept = store.whole(kept[kept["prompt_id"].isin(ids)])
    columns = scorers(kept)
    groups = [kept[kept["prompt_id"] == prompt_id] for prompt_id in ids]
    examples: list[dict[str, Any]] = [{"prompt": str(rows["prompt"].iloc[0])} for rows in groups]
    for side, ordered in (("best", select), ("worst", worst)):
        chosen = [
            ordered(rows, by, max(1, min(SHOWN, len(rows) // 2)), seed=config.seed).assign(example=number)
            for number, rows in enumerate(groups)
        ]
        shown = pd.concat(chosen, ignore_index=True)
        for example in examples:
            example[side] = []
        pictures = decode_rows(store, shown, denoiser, config.generate.batch_size)
        for (place, row), picture in zip(shown.iterrows(), pictures, strict=True):
            file = f"pictures/candidate-{side}-{place:03d}.png"
            write_bytes(folder / file, png(picture))
            scores = {name: float(row[name]) for name in columns}
            examples[row["example"]][side].append(
                {"picture": file, "seed": int(row["seed"]), "scores": scores}
            )
    write_json(folder / "candidates_examples.json", examples)
