"""Training: the batches, exactness of resuming and of accumulation, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest
import torch

from mitune import leaving
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.finetune import checkpoint, trainer
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.batches import Density, load_training_set
from mitune.finetune.catalogue import OBJECTIVES, AdapterConfig, TrainConfig
from mitune.finetune.trainer import TrainResult, learning_rate, train
from tests.finetune.conftest import make_dataset

SMALL = TrainConfig(
    steps=6, batch_size=6, micro_batch=3, lr=1e-2, checkpoint_every=3, keep_checkpoints=5, log_every=2, warmup=2,
    lr_schedule="cosine", caption_dropout=0.3,
)  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


class Figures:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int, stage: str = "train") -> None:
        self.rows.append((step, dict(values)))

    def truncate_after(self, stage: str, step: int) -> None:
        self.rows = [row for row in self.rows if row[0] < step]

    def close(self) -> None: ...


def _model(folder: Path, adapter: AdapterConfig) -> StableDiffusionDenoiser:
    denoiser = load_denoiser({"path": str(folder), "device": "cpu", "dtype": "float32"})
    attach(denoiser, adapter, seed=3)
    return denoiser


def _weights(denoiser: StableDiffusionDenoiser) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable_parameters(denoiser).items()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _run(
    model: Path, folder: Path, data: Any, config: TrainConfig, adapter: AdapterConfig, **more: Any
) -> tuple[TrainResult, dict[str, torch.Tensor]]:
    denoiser = _model(model, adapter)
    result = train(denoiser, data, config, folder, **more)
    return result, _weights(denoiser)


CASES: dict[str, tuple[AdapterConfig, dict[str, Any]]] = {
    "dora, dropout": (AdapterConfig(rank=4, dropout=0.2), {}),
    "lora, bf16, checkpointed": (
        AdapterConfig(rank=4, kind="lora"),
        {"mixed_precision": "bf16", "gradient_checkpointing": True},
    ),
    "dpo, text encoder": (
        AdapterConfig(rank=4, text_encoder=True),
        {"objective": "dpo", "beta_dpo": 50.0},
    ),
    "spin, text encoder, dropout": (
        AdapterConfig(rank=4, text_encoder=True, dropout=0.2),
        {"objective": "spin", "beta_dpo": 50.0},
    ),
    "kto": (AdapterConfig(rank=4), {"objective": "kto", "beta_dpo": 50.0}),
    "nft, text encoder": (AdapterConfig(rank=4, text_encoder=True), {"objective": "nft", "beta_nft": 0.5}),
    "nft, soft labels": (AdapterConfig(rank=4), {"objective": "nft", "beta_nft": 0.5, "soft_labels": 1.5}),
    "weighted": (AdapterConfig(rank=4), {"objective": "weighted", "temperature": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    case: str, tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path
) -> None:
    adapter, options = CASES[case]
    config = dataclasses.replace(SMALL, **options)
    figures = Figures()
    straight, expected = _run(
        tiny_pipeline_folder, tmp_path / "straight", pairs, config, adapter, tracker=figures
    )

    def stop(done: int) -> None:
        if done == 5:  # two steps after the checkpoint
            raise Killed

    resumed_figures = Figures()
    with pytest.raises(Killed):
        _run(
            tiny_pipeline_folder,
            tmp_path / "cut",
            pairs,
            config,
            adapter,
            on_step=stop,
            tracker=resumed_figures,
        )
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints") == [3]
    assert not (tmp_path / "cut" / "adapter").exists()
    torch.manual_seed(123)  # nothing outside may matter
    resumed, weights = _run(
        tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, tracker=resumed_figures
    )
    assert _same(expected, weights)
    assert resumed.loss == straight.loss
    assert resumed.forwards == straight.forwards
    for name in ("adapter/pytorch_lora_weights.safetensors", "checkpoints/step-000006/optimizer.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert [step for step, _ in figures.rows] == [2, 3, 4, 6] == [step for step, _ in resumed_figures.rows]
    for (_, a), (_, b) in zip(figures.rows, resumed_figures.rows, strict=True):
        assert [a[key] for key in ("loss", "grad_norm", "lr")] == [
            b[key] for key in ("loss", "grad_norm", "lr")
        ]

    # A third call finds everything done, trains nothing and gives the same.
    again, weights = _run(tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, on_step=stop)
    assert again == resumed
    assert _same(expected, weights)


def test_the_reference_of_spin_is_where_this_training_began(
    tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path
) -> None:
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4, dropout=0.5))
    with torch.no_grad():
        for parameter in trainable_parameters(denoiser).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    config = dataclasses.replace(SMALL, objective="spin")
    run = trainer._Run(denoiser, pairs, config, tmp_path, None, None, None)
    start, z, condition = _weights(denoiser), torch.randn(1, 4, 8, 8), denoiser.encode_prompts(["two dogs"])
    run._train_mode(False)
    with torch.no_grad():
        expected = denoiser.predict(z, torch.tensor([500]), condition)
        run._train_mode(True)
        for parameter in trainable_parameters(denoiser).values():
            parameter.mul_(2.0)
        moved = _weights(denoiser)
        assert run.anchor is not None
        with run.anchor():
            assert _same(_weights(denoiser), start)
            found = denoiser.predict(z, torch.tensor([500]), condition)  # without dropout
    assert torch.equal(found, expected)
    assert _same(_weights(denoiser), moved)


def test_winners_and_losers_of_kto_are_items_alike(
    tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path
) -> None:
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    config = dataclasses.replace(SMALL, objective="kto", batch_size=16, caption_dropout=0.0)
    run = trainer._Run(denoiser, pairs, config, tmp_path, None, None, None)
    batch = run._batch(run._place(run.draws(0)))
    assert batch.label is not None
    assert sorted(batch.label.tolist()) == [-1.0] * 8 + [1.0] * 8  # an epoch: each row once
    preferred = dict(zip(range(16), pairs["preferred"], strict=True))
    drawn = run.draws(0).winner.tolist()
    assert [preferred[row] for row in drawn] == [label > 0 for label in batch.label.tolist()]


def test_training_moves_the_adapter_and_nothing_else(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    before = _weights(denoiser)
    frozen = {
        name: value.clone() for name, value in denoiser.network.state_dict().items() if ".lora_" not in name
    }
    result = train(
        denoiser, winners, dataclasses.replace(SMALL, lr=2e-2, steps=12, caption_dropout=0.0), tmp_path
    )
    after = _weights(denoiser)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, denoiser.network.state_dict()[name]) for name, value in frozen.items())
    assert result.steps == 12
    assert result.trainable_parameters == sum(value.numel() for value in before.values())
    assert result.forwards == 12 * 6
    assert result.seconds > 0
    history = checkpoint._read(tmp_path / "checkpoints" / "step-000012" / "history.safetensors")["loss"]
    assert history[-3:].mean() < history[:3].mean()
    assert json.dumps(dataclasses.asdict(result))
    assert not any(layer.training for layer in denoiser.network.modules())


def test_the_micro_batch_does_not_matter(tiny_pipeline_folder: Path, winners: Any, tmp_path: Path) -> None:
    weights = []
    for micro in (2, 4, None):
        config = dataclasses.replace(SMALL, micro_batch=micro, batch_size=7, steps=3, lr=1e-3)
        weights.append(
            _run(tiny_pipeline_folder, tmp_path / str(micro), winners, config, AdapterConfig(rank=4))[1]
        )
    for other in weights[1:]:
        # Adam divides by the gradient's own size: where a gradient is all round-off, so is the step (at most
        # lr a step).
        close = [torch.isclose(weights[0][name], other[name], atol=1e-5, rtol=1e-4) for name in other]
        assert torch.cat([part.flatten() for part in close]).float().mean() > 0.999
        assert max((weights[0][name] - other[name]).abs().max() for name in other) < 1e-3


def _row_weights(winners: Any, rows: torch.Tensor, kind: str) -> torch.Tensor:
    """What each of ``rows`` counts: its column weight, and under ``weighted`` exp(z(score) / τ), of mean 1 over all."""
    weights = torch.tensor(winners["weight"], dtype=torch.float64)
    if kind == "weighted":
        score, texts = torch.tensor(winners["score"], dtype=torch.float64), winners["text"]
        for text in set(texts):
            same = torch.tensor([other == text for other in texts])
            part = score[same]
            weights[same] *= ((part - part.mean()) / part.std(correction=0) / 0.5).exp()
    return (weights / weights.mean()).float()[rows]


@pytest.mark.parametrize("kind", ["mse", "mse, rows weighted", "weighted"])
def test_one_step_is_the_written_out_formula(
    tiny_v_pipeline_folder: Path, winners: Any, tmp_path: Path, kind: str
) -> None:
    """The first loss and update, with nothing of the trainer but its draws: v-prediction, AdamW, clipping."""
    from diffusers import DDIMScheduler

    if kind != "mse":
        winners = winners.remove_columns("weight").add_column(
            "weight", [0.0, 1.0, 2.0, 0.5] * (len(winners) // 4)
        )
    config = TrainConfig(
        steps=1, batch_size=4, lr=1e-3, max_grad_norm=0.05, t_min=500, t_max=1000,
        objective=kind.partition(",")[0], temperature=0.5,
    )  # fmt: skip
    denoiser = _model(tiny_v_pipeline_folder, AdapterConfig(rank=4, kind="lora"))
    run = trainer._Run(denoiser, winners, config, tmp_path / "ours", None, None, None)
    draw = run.draws(0)
    assert draw.t.min() >= 500
    assert draw.t.max() < 1000
    assert len(set(draw.winner.tolist())) == 4

    plain = _model(tiny_v_pipeline_folder, AdapterConfig(rank=4, kind="lora"))
    scheduler = DDIMScheduler.from_pretrained(str(tiny_v_pipeline_folder), subfolder="scheduler")
    z0 = torch.tensor(winners.with_format("numpy")["latent"][:])[draw.winner]
    texts = [winners["text"][row] for row in draw.winner.tolist()]
    output = plain.network(
        scheduler.add_noise(z0, draw.noise, draw.t),
        draw.t,
        encoder_hidden_states=plain.encode_prompts(texts).tensors["text"],
    ).sample
    errors = (output - scheduler.get_velocity(z0, draw.noise, draw.t)).pow(2).flatten(1).mean(1)
    loss = (errors * _row_weights(winners, draw.winner, kind)).mean()
    loss.backward()
    loss_value = float(loss.detach())
    named = trainable_parameters(plain)
    parameters = list(named.values())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    gradients = {name: parameter.grad.clone() for name, parameter in named.items()}
    torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8).step()

    result = run.run()
    assert abs(result.loss - loss_value) <= 1e-5 * loss_value
    assert torch.allclose(run.history["grad_norm"][0], norm, rtol=1e-4)
    # Adam's first step is lr times the gradient's sign: a gradient of the size of the two computations' round-off
    # (float32: about 1e-7 of the whole gradient's norm) has no sign to agree on, every other one has.
    told = {name: gradient.abs() > 1e-5 * 0.05 for name, gradient in gradients.items()}
    assert torch.cat([part.flatten() for part in told.values() if part.any()]).float().mean() > 0.9
    for name, parameter in named.items():
        assert torch.allclose(run.names[name][told[name]], parameter[told[name]], atol=2e-6), name


def test_epochs_show_every_picture_equally_often(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    run = trainer._Run(
        denoiser, winners, dataclasses.replace(SMALL, batch_size=6), tmp_path, None, None, None
    )
    drawn = torch.cat([run.draws(step).winner for step in range(8)])  # 48 = 6 epochs of 8
    assert torch.bincount(drawn).tolist() == [6] * 8
    assert not torch.equal(drawn[:8], drawn[8:16])
    first, again = run.draws(5), run.draws(5)  # out of order: a draw has no past
    assert all(
        torch.equal(getattr(first, name), getattr(again, name)) for name in ("winner", "t", "noise", "text")
    )
    assert not torch.equal(first.noise, run.draws(4).noise)
    texts = torch.cat([run.draws(step).text for step in range(60)])
    assert 0.2 < (texts == run.texts.null).float().mean() < 0.4  # caption_dropout=0.3


def test_a_dropped_caption_is_the_null_prompt(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    for text_encoder in (False, True):
        denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4, text_encoder=text_encoder))
        config = dataclasses.replace(SMALL, caption_dropout=0.5)
        run = trainer._Run(denoiser, winners, config, tmp_path, None, None, None)
        index = torch.tensor([run.texts.null, 2, 0, run.texts.null])
        null = denoiser.null(1).tensors["text"]
        told = denoiser.encode([run.data.texts[2], run.data.texts[0]]).tensors["text"]
        expected = torch.cat([null, told, null])
        given = run.texts.condition(index).tensors["text"]
        assert torch.allclose(given, expected, atol=1e-6)
        assert given.requires_grad is text_encoder
        only_null = run.texts.condition(torch.tensor([run.texts.null])).tensors["text"]
        assert torch.allclose(only_null, expected[:1], atol=1e-6)


def test_pictures_are_encoded_where_latents_are_missing(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    data = make_dataset(latents=False)
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    run = trainer._Run(denoiser, data, SMALL, tmp_path, None, None, None)
    from mitune.data.dataset import pictures

    assert torch.allclose(run.data.latents, denoiser.encode_image(pictures(data)), atol=1e-6)


def test_the_best_adapter_is_kept(tiny_pipeline_folder: Path, winners: Any, tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4, dropout=0.1))

    def validate(done: int) -> float:
        assert not torch.is_grad_enabled()
        assert not any(layer.training for layer in denoiser.network.modules())
        seen[done] = _weights(denoiser)
        return {2: 0.1, 4: 0.7, 6: 0.7}[done]

    config = dataclasses.replace(SMALL, checkpoint_every=2, keep_checkpoints=1, keep_best_by="contrast")
    figures = Figures()
    result = train(denoiser, winners, config, tmp_path, validate=validate, tracker=figures)
    assert (result.best_step, result.best_value) == (4, 0.7)  # the earlier of two equals
    assert _same(_weights(denoiser), seen[4])
    other = load_denoiser(str(tiny_pipeline_folder), adapter=tmp_path / "adapter")
    z, condition = torch.randn(1, 4, 8, 8), denoiser.null(1)
    assert torch.allclose(other.predict(z, 500, condition), denoiser.predict(z, 500, condition), atol=1e-5)
    assert checkpoint.steps(tmp_path / "checkpoints") == [6]
    assert {
        step: row["validation_contrast"] for step, row in figures.rows if "validation_contrast" in row
    } == {2: 0.1, 4: 0.7, 6: 0.7}

    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4, dropout=0.1))
    with pytest.raises(UserError, match="contrast score of the adapter after step 2 is not finite"):
        train(denoiser, winners, config, tmp_path / "nan", validate=lambda done: float("nan"))


def test_a_loss_that_is_not_finite_ends_training_with_advice(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    config = dataclasses.replace(SMALL, lr=100.0, weight_decay=1000.0, lr_schedule="constant", warmup=0)
    with pytest.raises(UserError, match=r"not finite at step [1-6]; lower train.lr \(now 100.0\)"):
        train(denoiser, winners, config, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_run_of_other_settings_is_not_resumed(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    adapter = AdapterConfig(rank=4)
    config = dataclasses.replace(SMALL, steps=3)
    _run(tiny_pipeline_folder, tmp_path, winners, config, adapter)
    for changed, data, other in (
        ("train.lr", winners, dataclasses.replace(config, lr=2e-2)),
        ("dataset", make_dataset(seed=1), config),
    ):
        with pytest.raises(UserError, match=rf"other settings \({changed}\)"):
            _run(tiny_pipeline_folder, tmp_path, data, other, adapter)
    with pytest.raises(UserError, match=r"other settings \(adapter\)"):
        _run(tiny_pipeline_folder, tmp_path, winners, config, AdapterConfig(rank=4, dropout=0.5))
    # What changes speed only may change.
    _run(
        tiny_pipeline_folder,
        tmp_path,
        winners,
        dataclasses.replace(config, micro_batch=1, log_every=1),
        adapter,
    )


@pytest.mark.parametrize(("mean", "std", "low", "high"), [(0.0, 1.0, 0, 1000), (1.1, 0.5, 300, 900)])
def test_logit_normal_times_are_the_cut_density(mean: float, std: float, low: int, high: int) -> None:
    density = Density(1000, mean, std)
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
    t = density(grid, low, high).double()
    assert t.min() >= low
    assert t.max() <= high
    assert bool((t.diff() >= 0).all())
    # Its logits are normal: the share of quantiles below a time is the normal law's share of the range.
    law = torch.distributions.Normal(mean, std)
    ends = (torch.tensor([low, high], dtype=torch.float64) / 1000).logit()
    first, last = law.cdf(ends)
    for time in torch.linspace(low + 1, high - 1, 7, dtype=torch.float64):
        share = (law.cdf((time / 1000).logit()) - first) / (last - first)
        assert float((t <= time).double().mean()) == pytest.approx(float(share), abs=1e-3)


def test_logit_normal_times_are_drawn_in_the_range_and_the_same_again(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, batch_size=400, density="logit_normal", density_mean=-0.5)
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=2))
    run = trainer._Run(denoiser, winners, config, tmp_path, None, None, None)
    t = run.draws(0).t
    assert t.dtype == torch.long  # a diffusion's times are whole
    assert t.min() >= 500
    assert t.max() < 1000
    assert t.float().mean() < 700  # uniform: 750
    assert torch.equal(t, run.draws(0).t)
    assert not torch.equal(t, run.draws(1).t)
    with pytest.raises(UserError, match=r"train.density=lognormal"):
        dataclasses.replace(SMALL, density="lognormal").check("train.")


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_weights_that_are_none_are_refused(
    weights: list[float], tiny_v_pipeline_folder: Path, winners: Any
) -> None:
    wrong = winners.remove_columns("weight").add_column("weight", weights * (len(winners) // 2))
    denoiser = _model(tiny_v_pipeline_folder, AdapterConfig(rank=4))
    with pytest.raises(UserError, match="column weight"):
        load_training_set(wrong, denoiser, OBJECTIVES.find("mse"))


def test_learning_rates() -> None:
    config = TrainConfig(lr=1.0, steps=12, warmup=2)
    assert [learning_rate(config, step) for step in (0, 1, 2, 11)] == [0.5, 1.0, 1.0, 1.0]
    linear = dataclasses.replace(config, lr_schedule="linear")
    assert [learning_rate(linear, step) for step in (2, 7, 11)] == pytest.approx([1.0, 0.5, 0.1])
    cosine = dataclasses.replace(config, lr_schedule="cosine")
    assert [learning_rate(cosine, step) for step in (2, 7)] == pytest.approx([1.0, 0.5])
    assert learning_rate(cosine, 11) < 0.1


def test_wrong_settings_are_refused(tiny_pipeline_folder: Path, winners: Any, tmp_path: Path) -> None:
    for options, message in (
        ({"objective": "mes"}, "did you mean 'mse'"),
        ({"lr_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"mixed_precision": "fp61"}, "did you mean 'fp16'"),
        ({"steps": 0}, "train.steps=0"),
        ({"micro_batch": 0}, "train.micro_batch=0"),
        ({"t_min": 900, "t_max": 900}, "not below"),
        ({"caption_dropout": 1.5}, "train.caption_dropout"),
        ({"layout_weight": 1.5}, "train.layout_weight"),
        ({"beta_nft": 0.0}, "train.beta_nft"),
        ({"soft_labels": 0.0}, "train.soft_labels"),
    ):
        with pytest.raises(UserError, match=message):
            TrainConfig(**options).check("train.")
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    bad = winners.map(lambda row: {"latent": [[[float("nan")] * 8] * 8] * 4}, load_from_cache_file=False)
    small = winners.remove_columns("latent").add_column("latent", [[0.0] * 5] * len(winners))
    for config, data, message in (
        (dataclasses.replace(SMALL, t_max=1001), winners, "at most 1000"),
        (dataclasses.replace(SMALL, objective="dpo"), winners, "select.losers=1"),
        (dataclasses.replace(SMALL, objective="kto"), winners, "select.losers=1"),
        (dataclasses.replace(SMALL, mixed_precision="fp16"), winners, "needs a GPU"),
        (SMALL, bad, "row 0 .*not finite"),
        (SMALL, small, r"latents of \(5,\), this model's are \(4, 8, 8\)"),
        (
            SMALL,
            winners.remove_columns("preferred").add_column("preferred", [False] * len(winners)),
            "no preferred picture",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train(denoiser, data, config, tmp_path)
        assert "\n" not in str(caught.value)


def test_a_step_costs_what_its_forwards_cost(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    """One forward of each micro-batch, no more, and no number read back between two records."""
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    run = trainer._Run(
        denoiser, winners, dataclasses.replace(SMALL, batch_size=7, micro_batch=3), tmp_path, None, None, None
    )
    sizes: list[int] = []
    handle = denoiser.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    encoded = denoiser.text_encoders[0].register_forward_pre_hook(lambda *_: sizes.append(-1))
    item = torch.Tensor.item
    try:
        torch.Tensor.item = lambda self: pytest.fail("a number was read from the device")  # type: ignore[method-assign]
        with run._training():
            run._step(0)
            run._step(1)
    finally:
        torch.Tensor.item = item  # type: ignore[method-assign]
        handle.remove()
        encoded.remove()
    assert sizes == [2, 2, 3, 2, 2, 3]


_TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from tests.finetune.test_trainer import SMALL, AdapterConfig, _run
from tests.finetune.conftest import make_dataset
model, folder = sys.argv[1:]
_run(Path(model), Path(folder), make_dataset(losers=2), SMALL, AdapterConfig(rank=4))
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_TWO_PROCESSES)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    subprocess.run(
        [*command, str(script), str(tiny_pipeline_folder), str(tmp_path / "two")],
        check=True, cwd=root, timeout=300, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, one = _run(tiny_pipeline_folder, tmp_path / "one", pairs, SMALL, AdapterConfig(rank=4))
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    names = trainable_parameters(denoiser)
    checkpoint.restore_adapter(tmp_path / "two" / "adapter", names)
    difference = max((one[name] - names[name]).abs().max() for name in one)
    assert difference < 1e-2 * SMALL.steps  # Adam's bound where a gradient is round-off
    close = torch.cat([torch.isclose(one[name], names[name], atol=1e-4).flatten() for name in one])
    assert close.float().mean() > 0.999


def test_told_to_leave_it_ends_the_step_and_goes_on_from_there(
    tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path
) -> None:
    adapter, config = AdapterConfig(rank=4, dropout=0.2), SMALL
    whole, rest = Figures(), Figures()
    _, expected = _run(tiny_pipeline_folder, tmp_path / "straight", pairs, config, adapter, tracker=whole)

    def tell(done: int) -> None:
        if done == 4:  # no checkpoint is due at this step
            os.kill(os.getpid(), signal.SIGTERM)

    with leaving.signals(), pytest.raises(leaving.Leave) as caught:
        _run(tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, on_step=tell, tracker=rest)
    assert caught.value.code == leaving.TEMPORARY
    # The signal came once step 4 was over: step 5 is ended, and kept.
    assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == 5
    _, weights = _run(tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, tracker=rest)
    assert _same(weights, expected)
    assert _without_rates(rest) == _without_rates(whole)


def _without_rates(figures: Figures) -> list[Any]:
    return [
        (step, {name: value for name, value in values.items() if "per_second" not in name})
        for step, values in figures.rows
    ]


def test_the_best_adapter_survives_a_kill_before_the_checkpoint_that_names_it(
    tiny_pipeline_folder: Path, pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of processes may find another value the second time, and keep the best one of before."""
    adapter = AdapterConfig(rank=4)
    config = dataclasses.replace(SMALL, keep_best_by="oracle")
    first, *_ = range(config.checkpoint_every, config.steps + 1, config.checkpoint_every)
    values = {first: 0.5}

    def validate(done: int) -> float:
        return values.get(done, 0.1)

    _, expected = _run(tiny_pipeline_folder, tmp_path / "straight", pairs, config, adapter, validate=validate)
    save = checkpoint.save

    def kill(folder: Path, step: int, *rest: Any) -> Path:
        if step > first:
            raise Killed
        return save(folder, step, *rest)

    values[2 * first] = 0.9
    monkeypatch.setattr(checkpoint, "save", kill)
    with pytest.raises(Killed):
        _run(tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, validate=validate)
    monkeypatch.setattr(checkpoint, "save", save)
    del values[2 * first]
    result, weights = _run(tiny_pipeline_folder, tmp_path / "cut", pairs, config, adapter, validate=validate)
    assert result.best_step == first
    assert _same(weights, expected)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("best-*")] == [f"best-{first:06d}"]


def test_pictures_drawn_meanwhile_are_no_cost_of_the_training(
    tiny_pipeline_folder: Path, winners: Any, tmp_path: Path
) -> None:
    denoiser, drawn = _model(tiny_pipeline_folder, AdapterConfig(rank=2)), []

    def paint(step: int) -> None:
        drawn.append(step)
        denoiser.forwards += 1000
        sleep(1)

    began = perf_counter()
    config = dataclasses.replace(SMALL, pictures_every=3)
    result = train(denoiser, winners, config, tmp_path, pictures=paint)
    assert drawn == [0, 3, 6]
    assert result.seconds < perf_counter() - began - 2.9
    assert result.forwards == config.steps * config.batch_size
