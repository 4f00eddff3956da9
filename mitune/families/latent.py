"""What all families share: a network over the latents of an autoencoder, told by text encoders what to draw.

A family is one file beside this one: a subclass of ``LatentDenoiser`` that names the pipelines it is for and says how
prompts are encoded and how (z, t, c) go through the network. It is found by ``load_denoiser`` without being listed.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mitune.denoiser import Condition, Span, Tap
from mitune.errors import UserError
from mitune.families import attention, lora, memory
from mitune.families.adapted import Adapted
from mitune.families.autoencoder import Autoencoder, pictures_a_batch
from mitune.families.opening import open_folder, open_pipeline, quiet
from mitune.families.options import find_device, find_dtype
from mitune.families.settings import ModelConfig
from mitune.families.source import ModelSource, fingerprint
from mitune.families.wholeness import check_whole
from mitune.maps import Parts, Shape, Sums
from mitune.noise import NoiseSchedule, Time, check_prediction_type
from mitune.scheduler_config import sampler_defaults

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class LatentDenoiser(Adapted):
    """A pipeline's network, text encoders and autoencoder are one ``Denoiser``.

    All weights are frozen and in eval mode. ``forwards`` counts rows through the network.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    """Pipeline classes, as ``model_index.json`` names them, that this family is for."""
    network_name: ClassVar[str] = "transformer"
    """The pipeline's component that adapters attach to, and its name in an adapter file."""
    encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """The pipeline's text encoders; each has its tokenizer beside it."""
    adapted_encoders: ClassVar[tuple[str, ...]] = ()
    """Those of them that a diffusers adapter file may hold: CLIPs; the others (T5, Gemma) read ``text_tokens``."""
    optional_encoders: ClassVar[tuple[str, ...]] = ()
    """Those of them that a model may lack."""
    adapter_targets: ClassVar[tuple[str, ...]] = ATTENTION
    """Layers of the network an adapter goes to unless told otherwise: the attention's projections."""
    latent_patch: ClassVar[int] = 1
    """Latent cells that make one token, along each side: the latent's sides divide by it."""
    joint: ClassVar[str | None] = None
    """Which tokens come first where picture and text are one sequence: "picture first" or "text first"."""
    text_tokens: ClassVar[int | None] = None
    """Tokens its pipeline gives a text encoder of no fixed length (T5, Gemma)."""

    def __init__(self, pipeline: Any, identity: str, config: ModelConfig | None = None) -> None:
        """Wrap a loaded pipeline; of ``config`` the keys count that say what is drawn, and how prompts are read.

        Raises UserError for a model that cannot be compared with its null prompt, and for a size it cannot draw.
        """
        config = config or ModelConfig()
        self._pipeline = pipeline
        self._base_identity = identity
        self._warned: set[str] = set()
        self._null_row: Condition | None = None
        self._offload = "none"
        self._runs_on: torch.device | None = None  # where offloaded weights do not say it
        if config.max_tokens is not None and self.text_tokens is None:
            raise UserError(
                f"model.max_tokens={config.max_tokens}: {identity} reads prompts of one fixed length; leave it out"
            )
        self._text_tokens = config.max_tokens or self.text_tokens or 0
        self._guidance = config.guidance_embedding
        if self._guidance is not None and not getattr(self.network.config, "guidance_embeds", False):
            raise UserError(
                f"model.guidance_embedding={self._guidance}: {identity} is not guidance-distilled; leave it out"
            )
        picture_guidance = config.picture_guidance
        if picture_guidance is not None and not self.edits_pictures:
            raise UserError(
                f"model.picture_guidance={picture_guidance}: {identity} edits no pictures; leave it out"
            )
        self.picture_guidance = 1.5 if picture_guidance is None else picture_guidance
        missing = [
            name
            for name in self.encoder_names
            if name not in self.optional_encoders and getattr(pipeline, name, None) is None
        ]
        if missing:
            raise UserError(
                f"{identity} has no {missing[0]}: prompts cannot be encoded; use a folder that has all "
                "components its model_index.json should name"
            )
        self._check()
        self._downscale = int(pipeline.vae_scale_factor)
        height, width = self._latent_sides(config.resolution)
        self.latent_shape = (self._latent_channels(), height, width)
        self.picture_size = (height * self._downscale, width * self._downscale)
        self._autoencoder = Autoencoder(pipeline.vae, self._downscale)
        self.schedule = self._schedule(pipeline.scheduler.config)
        flow = self.schedule.kind == "flow"
        self.prediction_type = (
            "flow" if flow else str(pipeline.scheduler.config.get("prediction_type", "epsilon"))
        )
        check_prediction_type(self.prediction_type)
        for module in (self.network, pipeline.vae, *self._encoders.values()):
            module.requires_grad_(False).eval()
        self.forwards = 0

    @classmethod
    def load(cls, source: ModelSource, config: ModelConfig) -> Any:
        """Load the model that was found at ``source`` as ``config`` says.

        Raises UserError: not there, another pipeline, pickled weights, unknown dtype or device, an adapter
        that does not fit.
        """
        device = find_device(config.device)
        dtype = find_dtype(config.dtype, device)
        memory.check_offload(config.offload, device, config.compile)
        large = [name for name in cls.encoder_names if name not in cls.adapted_encoders]
        quantized = memory.quantization_config(config.quantization, cls.network_name, large, dtype, device)
        with quiet():
            folder = open_folder(source, config.variant)
            pipeline, files = open_pipeline(source, folder, config.variant, dtype, quantized)
        identity = f"{source.name}{f'@{source.revision}' if source.revision else ''}#{fingerprint(files)}"
        check_whole(pipeline, cls.network_name, cls.encoder_names, identity)
        denoiser = cls(pipeline, identity, config)
        memory.slice_autoencoder(pipeline.vae, config.vae_slicing, config.vae_tiling)
        if config.fast_decoder is not None:
            denoiser._autoencoder.fast = memory.open_fast_decoder(
                config.fast_decoder, denoiser.latent_shape[0], denoiser._downscale, dtype
            ).to(device)
        if quantized:
            denoiser._computes_in = dtype
        with quiet():
            if dtype is torch.float16 and getattr(pipeline.vae.config, "force_upcast", False):
                pipeline.vae.to(torch.float32)  # it overflows in float16
            if config.offload == "none":
                pipeline.to(device)
        if config.channels_last:
            denoiser.network.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        if config.adapter:
            denoiser.load_adapter(config.adapter, weights=config.adapter_weights)
        if config.offload != "none":
            denoiser.offload(config.offload, device)
        if config.compile:
            denoiser.network.compile()
        return denoiser

    def offload(self, mode: str, device: torch.device) -> None:
        """Let parts wait on the CPU and compute on ``device``; see ``memory.offload``."""
        memory.offload(self._pipeline, mode, self.network_name, device)
        self._offload, self._runs_on = mode, device

    @property
    def offloaded(self) -> str:
        """Say what waits on the CPU: none, model or sequential."""
        return self._offload

    # -- what a family says ----------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raises UserError for a model of this class that has no null prompt or takes more than a prompt."""

    @abstractmethod
    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        """The condition of ``prompts`` as named tensors [n, …]; differentiable."""

    @abstractmethod
    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The network's raw output [n, C, H, W] at ``z`` [n, C, H, W], ``t`` [n], in the weights' dtype."""

    def _encode_null(self) -> Mapping[str, Tensor]:
        """One row of the null prompt."""
        return self._encode([""])

    def _schedule(self, config: Mapping[str, Any]) -> NoiseSchedule:
        """The noise schedule of this scheduler configuration."""
        _, height, width = self.latent_shape
        return NoiseSchedule.from_config(config, (height // self._patch()) * (width // self._patch()))

    def _patch(self) -> int:
        """Latent cells along a side of one token of the network."""
        return int(getattr(self.network.config, "patch_size", None) or 1)

    def _latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    def _own_sides(self) -> Any:
        """Sides of the latent the model was trained at: a number, or (height, width)."""
        return self.network.config.sample_size

    def _prompt_limits(self) -> list[tuple[Any, int]]:
        """(tokenizer, tokens it keeps of a prompt, special ones included) of each text encoder."""
        found = []
        for name, encoder in self._encoders.items():
            tokenizer = getattr(self._pipeline, name.replace("text_encoder", "tokenizer"))
            positions = getattr(encoder.config, "max_position_embeddings", None)
            limit = min(tokenizer.model_max_length, positions or 2**31)
            found.append((tokenizer, limit if name in self.adapted_encoders else self._text_tokens))
        return found

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def pipeline(self) -> Any:
        """Give the diffusers pipeline that holds the modules."""
        return self._pipeline

    @property
    def network(self) -> Any:  # type: ignore[override]
        """Give the UNet or transformer."""
        return getattr(self._pipeline, self.network_name)

    @property
    def _encoders(self) -> dict[str, Any]:
        """The text encoders that are there."""
        found = {name: getattr(self._pipeline, name, None) for name in self.encoder_names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    @property
    def text_encoders(self) -> list[nn.Module]:
        """Give the text encoders adapters may attach to, in the order of the file's components."""
        return [encoder for name, encoder in self._encoders.items() if name in self.adapted_encoders]

    @property
    def components(self) -> dict[str, nn.Module]:
        """Give the modules that may carry an adapter, under the names they have in an adapter file."""
        texts = {name: module for name, module in self._encoders.items() if name in self.adapted_encoders}
        return {self.network_name: self.network, **texts}

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Say where the weights are, or are computed with."""
        return self._runs_on or next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Give the type the weights have, or are computed in."""
        return self._computes_in or next(self.network.parameters()).dtype

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Name, revision, fingerprint of the weights, and of the adapter if one was loaded."""
        return self._base_identity + (f"+{self._adapter.digest}" if self._adapter else "")

    def _latent_sides(self, resolution: int | None) -> tuple[int, int]:
        if resolution is None:
            own = self._own_sides()
            if own is None:
                raise UserError(
                    f"{self._base_identity} does not say the size of its pictures (sample_size); say model.resolution="
                )
            height, width = own if isinstance(own, (list, tuple)) else (own, own)
            return int(height), int(width)
        step = self._downscale * max(self.latent_patch, self._patch())
        if resolution % step or resolution < step:
            raise UserError(f"model.resolution={resolution}: this model's pictures divide by {step}")
        largest = (getattr(self.network.config, "pos_embed_max_size", None) or 2**31) * step
        if resolution > largest:
            raise UserError(f"model.resolution={resolution}: this model draws up to {largest} pixels a side")
        return resolution // self._downscale, resolution // self._downscale

    @property
    def sampler_defaults(self) -> Mapping[str, Any]:
        """As the model's own scheduler says."""
        return sampler_defaults(self._pipeline.scheduler.config)

    # -- prompts ---------------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Give the condition of each prompt. Too long prompts are cut, with one warning each that says what is lost.

        Differentiable where a text encoder has trainable parameters.
        """
        for prompt, cut in self.prompt_length_report(
            [prompt for prompt in prompts if prompt not in self._warned]
        ):
            self._warned.add(prompt)
            warnings.warn(
                f"the prompt {prompt!r} is longer than the {self._reader()[1]} tokens the text encoder "
                f"reads; cut off: {cut!r}",
                stacklevel=2,
            )
        self._make_room()
        with quiet(), torch.set_grad_enabled(self._texts_train()):
            return self._condition(self._encode(list(prompts)))

    def null(self, n: int) -> Condition:
        """Give the null prompt, ``n`` times (one row, expanded); encoded once while no text encoder has an adapter."""
        row = self._null_row
        adapted = bool(lora.adapter_layers(self.text_encoders))
        if row is None or adapted:
            self._make_room()
            with quiet(), torch.set_grad_enabled(self._texts_train()):
                row = self._condition(self._encode_null())
        self._null_row = None if adapted else row
        return Condition({name: value.expand(n, *value.shape[1:]) for name, value in row.tensors.items()})

    def prompt_length_report(self, prompts: list[str]) -> list[tuple[str, str]]:
        """Give (prompt, the words cut off) of every prompt that no text encoder takes whole."""
        tokenizer, limit = self._reader()
        # A token is at least one byte, so only long texts need to be counted.
        suspects = [prompt for prompt in dict.fromkeys(prompts) if len(prompt.encode()) > limit]
        if not suspects:
            return []
        rows = tokenizer(suspects, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return [
            (prompt, tokenizer.decode(row[limit:]).strip())
            for prompt, row in zip(suspects, rows, strict=True)
            if len(row) > limit
        ]

    def _reader(self) -> tuple[Any, int]:
        """The tokenizer of the text encoder that reads furthest, and how many tokens of a prompt that is."""
        limits = [
            (tokenizer, limit - tokenizer.num_special_tokens_to_add())
            for tokenizer, limit in self._prompt_limits()
        ]
        return max(limits, key=lambda pair: pair[1])

    def _make_room(self) -> None:
        """Send the network to the CPU before the text encoders come: diffusers' hooks only know the other way."""
        if self._offload == "model":
            self._pipeline.maybe_free_model_hooks()

    def _texts_train(self) -> bool:
        modules = self._encoders.values()
        return torch.is_grad_enabled() and any(p.requires_grad for m in modules for p in m.parameters())

    def _condition(self, tensors: Mapping[str, Tensor]) -> Condition:
        return Condition(tensors).to(self.device, self.dtype)

    # -- the network -----------------------------------------------------------------------------------------

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | Sums | None = None) -> Tensor:
        """Give the raw network output [n, C, H, W] in the dtype of ``z``; one forward, differentiable."""
        n = len(z)
        self.forwards += n
        if isinstance(t, Tensor):
            time = t.to(self.device).expand(n)
        else:  # filled on the device: copying a number there would wait for it
            time = torch.full(
                (n,), t, device=self.device, dtype=torch.long if isinstance(t, int) else torch.float32
            )
        dtype = self.dtype
        looking = attention.tapped(self.network, tap, self._kind) if tap else contextlib.nullcontext()
        with looking:
            return self._forward(z.to(dtype), time, condition.to(dtype=dtype).tensors).to(z.dtype)

    def _kind(self, told: bool, queries: int) -> str:
        """Name a call of attention: whether its layer reads a text, and its number of queries."""
        if told:
            return "cross"
        return "self" if self.joint is None or queries == self._picture_tokens else "joint"

    @property
    def map_grid(self) -> Shape:
        """(H, W) of the tokens that the network makes of a latent."""
        side = max(self.latent_patch, self._patch())
        return self.latent_shape[1] // side, self.latent_shape[2] // side

    @property
    def one_grid(self) -> bool:
        """Tell whether all layers look at that grid: a transformer's do, a UNet's at coarser ones too."""
        return getattr(self.network.config, "down_block_types", None) is None

    @property
    def _picture_tokens(self) -> int:
        return math.prod(self.map_grid)

    def parts(self, kind: str, queries: int, keys: int) -> Parts:
        """Tell where picture and text are in the maps of a layer."""
        every = slice(None)
        if kind == "cross":
            return Parts(every, every, None)
        if kind == "self":
            # A layer may look at fewer keys than it has cells: no map of the picture to itself.
            return Parts(every, None, every if queries == keys else None)
        text = keys - self._picture_tokens
        if self.joint == "text first":
            return Parts(slice(text, None), slice(0, text), slice(text, None))
        return Parts(slice(0, queries - text), slice(keys - text, None), slice(0, keys - text))

    def to_text(self, kind: str, maps: Tensor) -> Tensor | None:
        """Cut from maps how the picture looks at the text [n, heads, picture, text]; None where it does not.

        Rows of joint maps sum to less than 1: the rest looks at the picture.
        """
        parts = self.parts(kind, *maps.shape[-2:])
        return None if parts.text is None else maps[..., parts.rows, parts.text]

    def spans(self, text: str) -> list[Span]:
        """Find the words of a text, and which columns of the condition's ``text`` each has in every encoder."""
        return attention.spans(text, self._readers())

    def _readers(self) -> list[attention.Reader]:
        """Tell who reads a text into the condition's columns; by default each encoder's tokens begin at the first."""
        return [
            attention.Reader(name, tokenizer, limit)
            for name, (tokenizer, limit) in zip(self._encoders, self._prompt_limits(), strict=True)
        ]

    # -- pictures --------------------------------------------------------------------------------------------

    def encode_image(self, pictures: Tensor) -> Tensor:
        """Give scaled latents [n, C, h, w], float32, of ``pictures`` [n, 3, H, W] in [0, 1]: (posterior mean −
        shift) · scale.

        Raises UserError if the size does not divide into latents.
        """
        height, width = pictures.shape[-2:]
        if height % self._downscale or width % self._downscale:
            raise UserError(
                f"pictures of {width}x{height} do not divide by {self._downscale}; make them "
                f"{self.picture_size[1]}x{self.picture_size[0]}"
            )
        return self._autoencoder.encode(pictures, self.device)

    @property
    def pictures_at_once(self) -> int:
        """Count how many pictures go through the autoencoder at once."""
        return pictures_a_batch(self.picture_size[0] * self.picture_size[1])

    def decode(self, z: Tensor) -> Tensor:
        """Pictures [n, 3, H, W] float32 in [0, 1]; differentiable in ``z``."""
        return self._autoencoder.decode(z, self.device)
