"""Stable Diffusion 1.x and 2.x (any ``StableDiffusionPipeline``) as a ``Denoiser``."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError, nearest
from mitune.families import lora
from mitune.families.source import ModelSource, find_model, fingerprint, weight_files
from mitune.noise import NoiseSchedule, Time, check_prediction_type

_WEIGHTS = ("unet", "text_encoder", "vae")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PIXELS_A_BATCH = 16 * 512 * 512  # of the autoencoder: bounds its memory, whatever the size of a picture


class StableDiffusionDenoiser(Denoiser):
    """A latent UNet with a CLIP text encoder and an autoencoder; the condition is ``{"text": [n, tokens,
    width]}``.

    All weights are frozen and in eval mode. ``forwards`` counts rows through the UNet.
    """

    def __init__(self, pipeline: Any, identity: str) -> None:
        """Wrap a loaded ``StableDiffusionPipeline``. Raises UserError if the model has no null prompt or no
        plain latent input.
        """
        unet, vae, config = pipeline.unet, pipeline.vae, pipeline.scheduler.config
        if unet.config.time_cond_proj_dim is not None:
            raise UserError(
                f"{identity} is guidance-distilled: it has no null prompt to compare with, so no "
                "information can be measured; use the model it was made from"
            )
        if unet.config.in_channels != vae.config.latent_channels:
            raise UserError(
                f"{identity} takes {unet.config.in_channels} latent channels where its autoencoder has "
                f"{vae.config.latent_channels} (inpainting, depth and editing models need more than a "
                "prompt); use the text-to-image model"
            )
        self._pipeline = pipeline
        self._base_identity = identity
        self._adapter: lora.SavedAdapter | None = None
        self._warned: set[str] = set()
        self.schedule = NoiseSchedule.from_config(config)
        self.prediction_type = str(config.get("prediction_type", "epsilon"))
        check_prediction_type(self.prediction_type)
        size = unet.config.sample_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        self.latent_shape = (unet.config.in_channels, height, width)
        self._downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.picture_size = (height * self._downscale, width * self._downscale)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        tokenizer, text = pipeline.tokenizer, pipeline.text_encoder
        self._max_tokens = min(tokenizer.model_max_length, text.config.max_position_embeddings)
        for module in (unet, vae, text):
            module.requires_grad_(False).eval()
        self.forwards = 0

    @classmethod
    def load(
        cls,
        path_or_id: str | Path | ModelSource,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        adapter: str | Path | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> StableDiffusionDenoiser:
        """Load a folder or Hub id. ``dtype`` auto: bfloat16 on CUDA, else float32; ``device`` auto: this
        process's accelerator, else the CPU.

        Raises UserError: not there, another pipeline, pickled weights, unknown dtype or device, an adapter
        that does not fit.
        """
        source = path_or_id if isinstance(path_or_id, ModelSource) else find_model(path_or_id, revision)
        device = _device(device)
        number = _dtype(dtype, device)
        with _quiet():
            folder = source.folder or _download(source, variant)
            files = [file for part in _WEIGHTS for file in weight_files(folder, part, variant)]
            pipeline = _from_folder(folder, variant, number)
        identity = f"{source.name}{f'@{source.revision}' if source.revision else ''}#"
        identity += fingerprint([*files, folder / "scheduler" / "scheduler_config.json"])
        denoiser = cls(pipeline, identity)
        pipeline.to(device)
        if channels_last:
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        if adapter is not None:
            denoiser.load_adapter(adapter)
        if compile:
            pipeline.unet.compile()
        return denoiser

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline that holds the modules."""
        return self._pipeline

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The UNet."""
        return self._pipeline.unet

    @property
    def text_encoders(self) -> list[nn.Module]:
        """The text encoders adapters may attach to, in the order of the file's components."""
        return [self._pipeline.text_encoder]

    @property
    def components(self) -> dict[str, nn.Module]:
        """The modules that may carry an adapter, under the names they have in an adapter file."""
        return {"unet": self._pipeline.unet, "text_encoder": self._pipeline.text_encoder}

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the weights are."""
        return self._pipeline.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """What the weights are."""
        return self._pipeline.unet.conv_in.weight.dtype

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Name, revision, fingerprint of the weights, and of the adapter if one was loaded."""
        return self._base_identity + (f"+{self._adapter.digest}" if self._adapter else "")

    # -- prompts ---------------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Text embeddings [n, max tokens, width]. Too long prompts are cut, with one warning each that says
        what is lost.

        Differentiable where the text encoder has trainable parameters.
        """
        for prompt, cut in self.prompt_length_report(
            [prompt for prompt in prompts if prompt not in self._warned]
        ):
            self._warned.add(prompt)
            warnings.warn(
                f"the prompt {prompt!r} is longer than the {self._max_tokens - 2} tokens the text encoder "
                f"reads; cut off: {cut!r}",
                stacklevel=2,
            )
        tokens = self._pipeline.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self._max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        encoder = self._pipeline.text_encoder
        mask = (
            tokens.attention_mask.to(self.device)
            if getattr(encoder.config, "use_attention_mask", False)
            else None
        )
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
        with torch.set_grad_enabled(trains):
            text = encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return Condition({"text": text.to(self.dtype)})

    def prompt_length_report(self, prompts: list[str]) -> list[tuple[str, str]]:
        """(prompt, the words cut off) of every prompt the text encoder cannot take whole."""
        # A token is at least one byte, so only long texts need to be counted.
        limit = self._max_tokens - 2
        suspects = [prompt for prompt in dict.fromkeys(prompts) if len(prompt.encode()) > limit]
        if not suspects:
            return []
        tokenizer = self._pipeline.tokenizer
        rows = tokenizer(suspects, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return [
            (prompt, tokenizer.decode(row[limit:]).strip())
            for prompt, row in zip(suspects, rows, strict=True)
            if len(row) > limit
        ]

    def null(self, n: int) -> Condition:
        """The empty prompt, ``n`` times (one row, expanded)."""
        text = self.encode_prompts([""]).tensors["text"]
        return Condition({"text": text.expand(n, -1, -1)})

    # -- the network -----------------------------------------------------------------------------------------

    def predict(self, z: Tensor, t: Time, condition: Condition) -> Tensor:
        """Raw UNet output [n, C, H, W] in the dtype of ``z``; one forward, differentiable."""
        n = len(z)
        self.forwards += n
        if isinstance(t, Tensor):
            time = t.to(self.device)
        else:  # filled on the device: copying a number there would wait for it
            time = torch.full(
                (n,), t, device=self.device, dtype=torch.long if isinstance(t, int) else torch.float32
            )
        dtype = self.dtype
        output = self._pipeline.unet(
            z.to(dtype), time, encoder_hidden_states=condition.tensors["text"].to(dtype), return_dict=False
        )[0]
        return output.to(z.dtype)

    # -- pictures --------------------------------------------------------------------------------------------

    def encode_image(self, pictures: Tensor) -> Tensor:
        """Scaled latents [n, C, h, w], float32, of ``pictures`` [n, 3, H, W] in [0, 1]: (posterior mean −
        shift) · scale.

        Raises UserError if the size does not divide into latents.
        """
        height, width = pictures.shape[-2:]
        if height % self._downscale or width % self._downscale:
            raise UserError(
                f"pictures of {width}x{height} do not divide by {self._downscale}; make them "
                f"{self.picture_size[1]}x{self.picture_size[0]}"
            )
        vae, parts = self._pipeline.vae, []
        for part in pictures.split(self._pictures_a_batch(height * width)):
            mean = vae.encode(2 * part.to(self.device, vae.dtype) - 1).latent_dist.mode()
            parts.append((mean.float() - self._shift) * self._scale)
        return torch.cat(parts)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures [n, 3, H, W] float32 in [0, 1]; differentiable in ``z``."""
        vae, parts = self._pipeline.vae, []
        for part in z.split(self._pictures_a_batch(z.shape[-1] * z.shape[-2] * self._downscale**2)):
            latents = part.to(self.device).float() / self._scale + self._shift
            parts.append(
                (vae.decode(latents.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)
            )
        return torch.cat(parts)

    @staticmethod
    def _pictures_a_batch(pixels: int) -> int:
        return max(1, min(64, _PIXELS_A_BATCH // pixels))

    # -- adapters --------------------------------------------------------------------------------------------

    def load_adapter(self, folder: str | Path, name: str = "default") -> None:
        """Put a saved adapter in the place of the present one, frozen, in the weights' dtype. Raises
        UserError if it does not fit.
        """
        saved = lora.read_adapter(folder)
        unknown = [component for component in saved.tensors if component not in self.components]
        if unknown:
            raise UserError(
                f"the adapter {saved.path} is for another kind of model: it has a '{unknown[0]}', here are "
                f"{', '.join(self.components)}"
            )
        for component in saved.tensors:  # before anything is changed
            lora.fitted(self.components[component], saved, component)
        self.unload_adapter()
        for component in saved.tensors:
            lora.inject_saved(self.components[component], saved, component, name)
        self._adapter = saved

    def unload_adapter(self) -> None:
        """Back to the base model."""
        for module in self.components.values():
            lora.remove(module)
        self._adapter = None

    def save_adapter(self, folder: str | Path, name: str = "default") -> None:
        """Write the adapter to ``folder`` atomically, so that
        ``StableDiffusionPipeline.load_lora_weights(folder)`` reproduces it.
        """
        lora.write_adapter(folder, type(self._pipeline), self.components, name)

    def base(self) -> AbstractContextManager[None]:
        """The base model for the time of the block: the adapter switched off."""
        return lora.switched_off(lora.adapter_layers(self.components.values()))

    def fused(self) -> AbstractContextManager[None]:
        """The adapter merged into the weights for the time of the block: forwards at the base model's price.

        The weights come back bit for bit. Not for training, and not to be nested with ``base()``.
        """
        return lora.merged(lora.adapter_layers(self.components.values()))


def _device(device: str | torch.device) -> torch.device:
    """A device that is there; auto is this process's own."""
    if str(device) == "auto":
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda", rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"model.device={device} is no device; give auto, cpu, cuda, cuda:1 or mps") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"model.device={device}: this machine shows {torch.cuda.device_count()} CUDA devices; use "
            "model.device=auto"
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("model.device=mps: this machine has no Apple GPU; use model.device=auto")
    return found


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise UserError(
            f"model.dtype={dtype} is not known{nearest(dtype, _DTYPES)}; give auto, {', '.join(_DTYPES)}"
        )
    return _DTYPES[dtype]


def _unused(components: tuple[str, ...]) -> dict[str, None]:
    """Components a pipeline may have that are neither fetched nor loaded."""
    return dict.fromkeys(
        part for part in ("safety_checker", "feature_extractor", "image_encoder") if part in components
    )


def _download(source: ModelSource, variant: str | None) -> Path:
    """Fetch what is needed of a Hub pipeline, safetensors only, and return its folder in the cache."""
    from diffusers import StableDiffusionPipeline

    try:
        return Path(
            StableDiffusionPipeline.download(
                source.name,
                revision=source.revision,
                variant=variant,
                use_safetensors=True,
                **_unused(source.components),
            )
        )
    except (OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{source.name} could not be fetched from the Hub: {first}") from error


def _from_folder(folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline

    from mitune.files import read_json

    index = read_json(folder / "model_index.json")
    try:
        return StableDiffusionPipeline.from_pretrained(
            str(folder),
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            requires_safety_checker=False,
            **_unused(tuple(key for key, value in index.items() if isinstance(value, list))),
        )
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"the model in {folder} cannot be loaded: {first}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The libraries' loading bars only where somebody watches, and their advice on modules that are left out
    on purpose never.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    libraries = (diffusers_logging, transformers_logging)
    shown = [
        library for library in libraries if library.is_progress_bar_enabled() and not sys.stderr.isatty()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers is renaming torch_dtype to dtype; only the old name is known to all versions we allow.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        diffusers_logging.set_verbosity(level)
        for library in shown:
            library.enable_progress_bar()
