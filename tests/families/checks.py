"""What every family must reach, said once: ours against the plain diffusers pipeline.

A ``Model`` says how its plain pipeline is called. A family's file builds one as its fixture ``model``, derives a class
from ``Common``, whose tests every family has, and calls the checks on variants of the model of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.families import load_denoiser, lora
from mitune.files import read_json
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.maps import words_of
from mitune.noise import MIN_ALPHA
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.heatmaps import heatmaps
from mitune.pixels.phrases import Asked, find
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise
from tests.families import solvers
from tests.finetune.conftest import make_dataset

PROMPTS = ["a red circle", "a blue square on a green star", "two dogs"]
SEEDS = [11, 12, 13]
EULER = SamplerConfig("euler", steps=6, guidance=3.0)
DDIM = SamplerConfig("ddim", steps=6, eta=0.0, spacing="leading", steps_offset=1, guidance=3.0)
CLOSE = 1e-4


@dataclass(frozen=True)
class Model:
    """A tiny model on disk and how its plain pipeline is asked for latents.

    ``guidance``: the name of the pipeline's guidance scale; ``call``: further arguments; ``pack`` and ``unpack``:
    between our latents and the pipeline's.
    """

    folder: Path
    sampler: SamplerConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    call: Mapping[str, Any] = field(default_factory=dict)
    pack: Callable[[Tensor], Tensor] = lambda z: z
    unpack: Callable[[Tensor], Tensor] = lambda z: z

    def load(self, **more: Any) -> Any:
        return load_denoiser({"path": str(self.folder), "device": "cpu", **self.options, **more})

    @cached_property
    def ours(self) -> Any:
        """The denoiser, for tests that leave it as it is."""
        return self.load()

    def plain(self) -> Any:
        import diffusers

        index = read_json(self.folder / "model_index.json")
        absent = {name: None for name, value in index.items() if value == [None, None]}
        pipeline = diffusers.DiffusionPipeline.from_pretrained(str(self.folder), **absent)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def noise(self) -> Tensor:
        return torch.stack([candidate_noise(seed, self.ours.latent_shape, 0)[0] for seed in SEEDS])

    def theirs(self, pipeline: Any, output: str = "latent") -> Tensor:
        """Latents, or pictures [n, 3, H, W] in [0, 1] (``output`` pt), of the plain pipeline."""
        height, width = self.ours.picture_size
        made = pipeline(
            PROMPTS,
            num_inference_steps=self.sampler.steps,
            latents=self.pack(self.noise()),
            output_type=output,
            height=height,
            width=width,
            **{self.guidance: self.sampler.guidance},
            **self.call,
        ).images
        return self.unpack(made) if output == "latent" else made


def sampled(model: Model, denoiser: Any, sampler: SamplerConfig | None = None) -> Tensor:
    """Its latents, as of a model that is only used: where weights require gradients ``torch.matmul`` folds the batch
    even without autograd, and another kernel may round otherwise.
    """
    for component in denoiser.components.values():
        component.requires_grad_(False)
    return sample(denoiser, denoiser.encode_prompts(PROMPTS), SEEDS, sampler or model.sampler)


def same_latents(model: Model) -> None:
    """(a) Our loop, their loop: same scheduler, noise and guidance. The guidance must matter."""
    ours = sampled(model, model.ours)
    theirs = model.theirs(model.plain())
    assert (ours - theirs).abs().max() <= CLOSE
    unguided = sampled(model, model.ours, dataclasses.replace(model.sampler, guidance=1.0))
    assert (ours - unguided).abs().max() > 10 * CLOSE
    assert (ours[0] - ours[1]).abs().max() > 10 * CLOSE


def same_epsilon(model: Model) -> None:
    """(b) ε̂ of both branches at every step, from what the plain pipeline's network was given and gave."""
    pipeline, denoiser = model.plain(), model.ours
    network = getattr(pipeline, denoiser.network_name)
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        given = arguments[0] if arguments else keywords["hidden_states"]
        seen.append(
            (
                model.unpack(given),
                model.unpack(output[0][:, : given.shape[1]] if given.ndim == 4 else output[0]),
            )
        )

    network.register_forward_hook(note, with_kwargs=True)
    model.theirs(pipeline)
    times = denoiser.schedule.timesteps(
        model.sampler.steps, model.sampler.spacing, model.sampler.steps_offset
    ).tolist()
    assert len(seen) in (len(times), 2 * len(times))
    if len(seen) > len(times):  # two forwards a step, with the prompt first: as one, with ∅ first
        seen = [
            (torch.cat([null[0], cond[0]]), torch.cat([null[1], cond[1]]))
            for cond, null in zip(seen[::2], seen[1::2], strict=True)
        ]
    n = len(PROMPTS)
    condition, null = denoiser.encode_prompts(PROMPTS), denoiser.null(n)
    for t, (z, output) in zip(times, seen, strict=True):
        expected = output
        if denoiser.prediction_type == "flow":  # z = (1 − σ) z_0 + σ ε, v = ε − z_0
            expected = z + max(1 - t / 1000, MIN_ALPHA) * output
        with torch.no_grad():
            assert (denoiser.epsilon(z[:n], t, null) - expected[:n]).abs().max() <= CLOSE
            assert (denoiser.epsilon(z[n:], t, condition) - expected[n:]).abs().max() <= CLOSE


def same_pictures(model: Model) -> None:
    """Decoding, and encoding what was decoded."""
    denoiser = model.ours
    with torch.no_grad():
        ours = denoiser.decode(sampled(model, denoiser))
        assert (ours - model.theirs(model.plain(), "pt")).abs().max() <= CLOSE
        assert ours.shape[-2:] == denoiser.picture_size
        assert denoiser.encode_image(ours).shape[1:] == denoiser.latent_shape


def shaken(model: Model, kind: str, text_encoder: bool = False) -> Any:
    """The denoiser with a fresh adapter that is far from zero."""
    denoiser = model.load()
    parameters = attach(
        denoiser, AdapterConfig(kind=kind, rank=2, alpha=3, text_encoder=text_encoder), seed=5
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return denoiser


def same_with_adapter(model: Model, folder: Path, kind: str = "dora", text_encoder: bool = False) -> None:
    """(c) An exported adapter in the plain pipeline: the same latents as ours, and other than without it."""
    denoiser = shaken(model, kind, text_encoder)
    ours = sampled(model, denoiser)
    denoiser.save_adapter(folder)
    assert set(lora.read_adapter(folder).tensors) == set(
        denoiser.components if text_encoder else [denoiser.network_name]
    )
    loaded, base = model.load(adapter=folder), sampled(model, model.ours)
    assert torch.equal(sampled(model, loaded), ours)
    with loaded.fused():
        assert (sampled(model, loaded) - ours).abs().max() <= CLOSE
    assert torch.equal(sampled(model, loaded), ours)  # the weights came back
    with loaded.base():
        assert torch.equal(sampled(model, loaded), base)
    loaded.load_adapter(folder)  # in the place of the first
    loaded.unload_adapter()
    assert torch.equal(sampled(model, loaded), base)
    pipeline = model.plain()
    assert (ours - base).abs().max() > 10 * CLOSE
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(str(folder))
    else:
        merge_by_hand(pipeline, folder)
    assert (model.theirs(pipeline) - ours).abs().max() <= CLOSE
    if hasattr(pipeline, "load_lora_weights"):
        with torch.no_grad():
            assert (model.theirs(pipeline, "pt") - denoiser.decode(ours)).abs().max() <= CLOSE


@torch.no_grad()
def merge_by_hand(pipeline: Any, folder: Path) -> None:
    """W + (alpha / r) B A, and DoRA's rescaling of each row, for pipelines that load no adapters themselves."""
    saved = lora.read_adapter(folder)
    for component, tensors in saved.tensors.items():
        module, alpha = getattr(pipeline, component), saved.settings[component]["lora_alpha"]
        for layer, rank in saved.ranks(component).items():
            weight = module.get_submodule(layer).weight
            update = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
            weight.add_(alpha / rank * update)
            if saved.is_dora(component):
                length = torch.linalg.norm(weight, dim=1, keepdim=True)
                weight.mul_(tensors[f"{layer}.lora_magnitude_vector"][:, None] / length)


class Killed(Exception):
    """Stands for the end of the process."""


def same_after_a_break(model: Model, folder: Path) -> None:
    """(d) Train, die, resume, export: the adapter of an uninterrupted run, and it loads. Gradient checkpointing,
    until death, changes nothing.
    """
    data = make_dataset(shape=model.ours.latent_shape)
    config = TrainConfig(steps=3, batch_size=3, lr=1e-2, checkpoint_every=2, log_every=1)

    def run(name: str, on_step: Callable[[int], None] | None = None, frugal: bool = False) -> Any:
        denoiser = model.load()
        attach(denoiser, AdapterConfig(rank=2), seed=3)
        how = dataclasses.replace(config, gradient_checkpointing=frugal)
        train(denoiser, data, how, folder / name, on_step=on_step)
        return denoiser

    def stop(done: int) -> None:
        if done == 3:
            raise Killed

    straight = run("straight")
    with pytest.raises(Killed):
        run("cut", stop, frugal=True)
    resumed = run("cut")
    ours, expected = trainable_parameters(resumed), trainable_parameters(straight)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    fresh = model.load()
    attach(fresh, AdapterConfig(rank=2), seed=3)
    before = trainable_parameters(fresh)
    assert any(not torch.equal(ours[name], before[name]) for name in before)
    loaded = model.load(adapter=folder / "cut" / "adapter")
    assert torch.equal(sampled(model, loaded), sampled(model, resumed))


@torch.no_grad()
def sees_attention(model: Model, own: bool = True) -> None:
    """Maps are shares of attention, an adapter counts, the forward is the plain one; ``own``: of the picture too."""
    denoiser = shaken(model, "lora", False)
    text = "a red circle and a circle"
    phrases = find(text, ["a circle", "a red circle"])
    spans = denoiser.token_spans([text], [phrases])
    last, first = spans[0]
    assert all(
        min(last[encoder]) > max(first[encoder]) for encoder in first
    )  # the first circle is the red one's
    condition = denoiser.encode_prompts([text] * 2)
    words = words_of(spans * 2, condition.tensors["text"].shape[1])
    z, t = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0)), 400
    plain = denoiser.predict(z, t, condition)
    denoiser.forwards = 0
    output, maps = denoiser.look(z, t, condition, words)
    assert denoiser.forwards == 2
    assert (output - plain).abs().max() <= 1e-6 * plain.abs().max()
    every = denoiser.attention(z, t, condition)
    rows = every.cross.sum(2)
    assert maps.cross.dtype == torch.float32
    assert maps.cross.shape[:3] == (2, len(maps.places), 2)
    assert rows.min() > 0
    assert rows.max() <= 1 + 1e-5
    if denoiser.joint is None:
        assert rows.min() >= 1 - 1e-5
    read = torch.einsum("npt,nlthw->nlphw", words, every.cross)
    assert (read - maps.cross).abs().max() <= 1e-6
    assert (maps.own is not None) == own
    if maps.own is not None and maps.grid is not None:
        assert maps.own.shape == (2, math.prod(maps.grid), math.prod(maps.grid))
        assert (maps.own.sum(-1) - 1).abs().max() <= 1e-5
    with denoiser.base():
        assert (denoiser.attention(z, t, condition, words).cross - maps.cross).abs().max() > 1e-5
    alone = denoiser.attention(z[1:], t, condition[1:], words[1:])
    assert (alone.cross[0] - maps.cross[1]).abs().max() <= 1e-5


def makes_heatmaps(model: Model, own: bool = True) -> None:
    """Heatmaps of every phrase in [0, 1]; that they were not refined is said where there is nothing to refine by."""
    denoiser, text = model.ours, "a red circle and a circle"
    asked = [Asked(text, find(text, phrases)) for phrases in (["a circle"], ["a circle", "a red circle"])]
    z = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    found = heatmaps(denoiser, z, asked, SEEDS[:2], HeatmapConfig(times=2, loss_times=4), 3)
    assert [tuple(one.maps.shape) for one in found] == [(1, *z.shape[-2:]), (2, *z.shape[-2:])]
    assert all(one.maps.min() >= 0 and one.maps.amax((1, 2)).min() == 1 for one in found)
    assert all(one.losses.isfinite().all() for one in found)
    assert [one.refined for one in found] == [own] * 2
    assert [one.forwards for one in found] == [2 * 4, 3 * 4]


class Common:
    """The tests every family has, of its file's ``model``. ``text_adapters``: whether text encoders take them too."""

    text_adapters: bool
    own_maps = True

    def test_latents(self, model: Model) -> None:
        same_latents(model)

    @pytest.mark.parametrize("name", solvers.CLASSES)
    def test_solvers(self, model: Model, name: str) -> None:
        solvers.same_as(model, name, SEEDS)

    def test_attention(self, model: Model) -> None:
        sees_attention(model, self.own_maps)

    def test_heatmaps(self, model: Model) -> None:
        makes_heatmaps(model, self.own_maps)

    def test_epsilon(self, model: Model) -> None:
        same_epsilon(model)

    def test_pictures(self, model: Model) -> None:
        same_pictures(model)

    @pytest.mark.parametrize("kind", ["dora", "lora"])
    def test_adapter(self, model: Model, tmp_path: Path, kind: str) -> None:
        texts = self.text_adapters and kind == "lora"
        same_with_adapter(model, tmp_path / "adapter", kind, text_encoder=texts)

    def test_training(self, model: Model, tmp_path: Path) -> None:
        same_after_a_break(model, tmp_path)
