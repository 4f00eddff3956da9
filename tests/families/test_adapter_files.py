"""Adapter files as every tool writes them: the network that the other tool would make, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mitune.errors import UserError
from mitune.families import lora
from mitune.families.adapter_contents import open_file
from mitune.hub.comfy import comfy_tensors, prefixes
from tests.families import adapters, ldm
from tests.families.adapters import Layer, apart, outer, plain_weights, weights_of

CLOSE = 1e-5
ATTENTION = (".to_q", ".to_k", ".to_out.0", ".q_proj", ".out_proj")
UNET = (
    *ATTENTION,
    "conv1",
    "time_emb_proj",
    "conv_shortcut",
    "proj_in",
    "net.0.proj",
    "net.2",
    "conv_in",
    "linear_1",
)


class Model:
    """A model, its weights, an adapter for it (``layers``, and ``alike``: one rank and alpha), and what that makes."""

    def __init__(self, folder: Path, endings: tuple[str, ...] = UNET) -> None:
        self.folder = folder
        self.denoiser = adapters.open_model(folder)
        self.base = weights_of(self.denoiser)
        components = dict(self.denoiser.components)
        self.layers = adapters.make(components, endings)
        self.network = [layer for layer in self.layers if not layer.component.startswith("text")]
        self.alike = adapters.make({"unet": self.denoiser.network}, ATTENTION, alike=True)

    def ours(self, file: Path, **more: Any) -> dict[str, Tensor]:
        self.denoiser.load_adapter(file, **more)
        return weights_of(self.denoiser)

    def theirs(self, file: Path) -> dict[str, Tensor]:
        """What diffusers' own reader makes of the file."""
        from diffusers import AutoPipelineForText2Image

        more = {"safety_checker": None} if (self.folder / "unet").is_dir() else {}
        pipeline = AutoPipelineForText2Image.from_pretrained(str(self.folder), **more)
        pipeline.load_lora_weights(str(file))
        pipeline.fuse_lora(components=list(self.denoiser.components))
        return plain_weights({name: getattr(pipeline, name) for name in self.denoiser.components})

    def is_right(self, file: Path, layers: list[Layer], diffusers: bool = True) -> None:
        """By the formula, beside a stack of one, and by diffusers where it reads the file."""
        found, right = self.ours(file), adapters.expected(self.base, layers)
        assert apart(found, right) <= CLOSE
        assert apart(self.base, right) > 1e-2
        assert {saved[0] for saved in self.updated()} == {(layer.component, layer.name) for layer in layers}
        half = self.ours(file, weights=[0.5])
        between = {key: (value + right[key]) / 2 for key, value in self.base.items()}
        assert apart(half, between) <= CLOSE
        if diffusers:
            assert apart(self.theirs(file), right) <= CLOSE

    def updated(self) -> list[tuple[tuple[str, str], Tensor]]:
        found = self.denoiser.adapter_updates().items()
        return [((part, name), update.added()) for part, updates in found for name, update in updates.items()]


@pytest.fixture(scope="module")
def model(tiny_pipeline_folder: Path) -> Model:
    return Model(tiny_pipeline_folder)


def flat(layer: Layer, text: str = "lora_te") -> str:
    head = text if layer.component == "text_encoder" else f"{text[:-1]}2"
    head = head if layer.component.startswith("text") else "lora_unet"
    return f"{head}_{outer(layer).replace('.', '_')}"


def original(layer: Layer) -> str:
    if layer.component.startswith("text"):
        return flat(layer)
    if layer.name == "add_embedding.linear_1":
        return "lora_unet_label_emb_0_0"
    return "lora_unet_" + ldm._unet(f"{layer.name}.weight", 1).removesuffix(".weight").replace(".", "_")


# -- kohya, ComfyUI ------------------------------------------------------------------------------------------


def test_kohyas_files_with_diffusers_names_of_layers(model: Model, tmp_path: Path) -> None:
    file = adapters.write_kohya(
        tmp_path / "style.safetensors", model.layers, flat, ss_network_module="networks.lora"
    )
    model.is_right(file, model.layers, diffusers=False)
    # diffusers 0.42 does not read all layers of this one, and loses alphas that differ.
    model.is_right(adapters.write_kohya(tmp_path / "some.safetensors", model.alike, flat), model.alike)


def test_kohyas_files_with_the_original_codes_names_of_layers(model: Model, tmp_path: Path) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.layers, original)
    model.is_right(file, model.layers, diffusers=False)


def test_names_with_dots_below_comfyuis_prefixes(model: Model, tmp_path: Path) -> None:
    heads = {"unet": "diffusion_model.", "text_encoder": "text_encoders.clip_l.transformer."}

    def name(layer: Layer) -> str:
        inside = layer.component != "unet"
        theirs = outer(layer) if inside else ldm._unet(f"{layer.name}.weight", 1).removesuffix(".weight")
        return heads[layer.component] + theirs

    file = adapters.write_kohya(tmp_path / "style.safetensors", model.layers, name)
    model.is_right(file, model.layers, diffusers=False)


def test_a_pointwise_convolution_and_a_linear_layer_are_one_to_kohya(model: Model, tmp_path: Path) -> None:
    turned = []
    for layer in model.network:
        if layer.name.endswith(".to_q"):
            turned.append(
                dataclasses.replace(layer, down=layer.down[..., None, None], up=layer.up[..., None, None])
            )
        elif layer.name.endswith("proj_in"):
            turned.append(dataclasses.replace(layer, down=layer.down.flatten(1), up=layer.up.flatten(1)))
    file = adapters.write_kohya(tmp_path / "style.safetensors", turned, flat)
    model.is_right(file, turned, diffusers=False)


def test_our_comfyui_file_is_read_back_as_the_adapter_it_is_of(model: Model, tmp_path: Path) -> None:
    from mitune.finetune.adapters import attach
    from mitune.finetune.catalogue import AdapterConfig

    for kind, targets in (("dora", ("to_q", "conv1")), ("lora", ("to_q", "to_out.0"))):
        generator = torch.Generator().manual_seed(0)
        config = AdapterConfig(kind=kind, rank=2, alpha=3, targets=targets, text_encoder=True)
        with torch.no_grad():
            for parameter in attach(model.denoiser, config):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.denoiser.save_adapter(tmp_path / kind)
        right = model.ours(tmp_path / kind)
        file = tmp_path / f"{kind}.safetensors"
        save_file(comfy_tensors(model.denoiser.adapter_updates()), file)
        assert apart(model.ours(file), right) <= CLOSE < apart(model.base, right)
        save_file(comfy_tensors(model.denoiser.adapter_updates()), tmp_path / "again.safetensors")
        again = load_file(tmp_path / "again.safetensors")
        assert apart(load_file(file), again) <= CLOSE


def test_the_scale_of_a_dora_is_comfyuis(model: Model, tmp_path: Path) -> None:
    """Layers without a scale are LoRA, as in ComfyUI; its arithmetic is that of ``comfy/weight_adapter``, 2025."""
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat)
    tensors, right = load_file(file), adapters.expected(model.base, model.network)
    for number, layer in enumerate(model.network):
        if number % 2:
            key = f"{layer.component}.{layer.name}.weight"
            rows = [-1, *[1] * (right[key].ndim - 1)]
            norm = model.base[key].flatten(1).norm(dim=1).reshape(rows)
            scale = norm * torch.linspace(0.5, 1.5, len(norm)).reshape(rows)
            tensors[f"{flat(layer)}.dora_scale"] = scale
            right[key] = right[key] * (scale / norm)
    save_file(tensors, file)
    assert apart(model.ours(file), right) <= CLOSE
    between = {key: (value + right[key]) / 2 for key, value in model.base.items()}
    assert apart(model.ours(file, weights=[0.5]), between) <= CLOSE
    model.ours(file)
    model.denoiser.save_adapter(tmp_path / "saved")
    assert apart(model.ours(tmp_path / "saved"), right) <= CLOSE
    square = next(layer for layer in model.network if layer.name.endswith(".to_q"))
    tensors = {name: value for name, value in tensors.items() if name.startswith(f"{flat(square)}.")}
    tensors[f"{flat(square)}.dora_scale"] = torch.ones(1, square.down.shape[1])
    save_file(tensors, file)
    with pytest.raises(UserError, match="one for each of 32 outputs"):
        model.ours(file)


# -- older diffusers, peft -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["unet.", ""])
@pytest.mark.parametrize("alphas", [True, False])
def test_the_attention_processors_of_older_diffusers(
    head: str, alphas: bool, model: Model, tmp_path: Path
) -> None:
    tensors, layers = {}, []
    for layer in model.layers:
        if not layer.name.endswith(ATTENTION) or (layer.component != "unet" and not head):
            continue
        place, _, last = layer.name.removesuffix(".0").rpartition(".")
        name = f"{head}{place}.processor.{last}_lora"
        if layer.component != "unet":
            name = f"text_encoder.{outer(layer)}.lora_linear_layer"
        tensors |= {f"{name}.down.weight": layer.down, f"{name}.up.weight": layer.up}
        if alphas:
            tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha))
        layers.append(layer if alphas else dataclasses.replace(layer, alpha=len(layer.down)))
    save_file(tensors, tmp_path / lora.FILE)
    # diffusers 0.42 takes a file without "unet." for one without layers.
    model.is_right(tmp_path, layers, diffusers=bool(head) and not alphas)


def test_the_names_between(model: Model, tmp_path: Path) -> None:
    """``….to_q.lora.down.weight`` and, of a text encoder, ``….to_q_lora.down.weight``."""
    tensors, layers = {}, []
    for layer in model.layers:
        if not layer.name.endswith((".to_q", ".to_k", ".q_proj", ".out_proj")):
            continue
        name = f"{layer.component}.{outer(layer)}.lora"
        if layer.component != "unet":
            name = name.replace(".q_proj.lora", ".to_q_lora").replace(".out_proj.lora", ".to_out_lora")
        tensors |= {f"{name}.down.weight": layer.down, f"{name}.up.weight": layer.up}
        layers.append(dataclasses.replace(layer, alpha=len(layer.down)))
    save_file(tensors, tmp_path / "old.safetensors")
    model.is_right(tmp_path / "old.safetensors", layers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("component", "dora"), [("unet", False), ("unet", True), ("text_encoder", False)])
def test_pefts_own_folders(component: str, dora: bool, model: Model, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        use_dora=dora,
        target_modules=["to_q", "to_k", "conv1", "q_proj", "fc1"],
        rank_pattern={"to_q": 2, "q_proj": 2},
        alpha_pattern={"mid_block.*to_k": 3, r"layers\.1\..*": 5},
        fan_in_fan_out=True,
        lora_dropout=0.1,
        init_lora_weights=False,
    )
    fresh = getattr(adapters.open_model(model.folder).pipeline, component)
    get_peft_model(fresh, config).save_pretrained(str(tmp_path / "peft"))
    clean = getattr(adapters.open_model(model.folder).pipeline, component)
    merged = PeftModel.from_pretrained(clean, str(tmp_path / "peft")).merge_and_unload()
    right = model.base | plain_weights({component: merged})
    for place in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
        found = model.ours(place)
        assert apart(found, right) <= CLOSE < apart(model.base, right)
    identity = model.denoiser.identity
    settings = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 4}))
    model.ours(tmp_path / "peft")
    assert model.denoiser.identity != identity  # other settings are another adapter
    (tmp_path / "peft/adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"adapter_config.json .*missing"):
        model.ours(tmp_path / "peft")


def test_training_goes_on_from_the_files_of_others(model: Model, tmp_path: Path) -> None:
    from mitune.finetune.adapters import attach
    from mitune.finetune.catalogue import AdapterConfig

    config = AdapterConfig(kind="lora", rank=2, alpha=3, targets=("to_q", "to_k", "to_out.0"))
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.alike, flat)
    assert all(parameter.requires_grad for parameter in attach(model.denoiser, config, init_from=file))
    assert apart(weights_of(model.denoiser), adapters.expected(model.base, model.alike)) <= CLOSE
    other = dataclasses.replace(model.alike[0], alpha=4)
    adapters.write_kohya(file, [other, *model.alike[1:]], flat)
    with pytest.raises(UserError, match="scales its layers differently"):
        attach(model.denoiser, config, init_from=file)
    adapters.write_kohya(file, [dataclasses.replace(layer, alpha=4) for layer in model.alike], flat)
    with pytest.raises(UserError, match=r"adapter.alpha=4,"):
        attach(model.denoiser, config, init_from=file)


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, lambda name: 3 / 2),
        ({"use_rslora": True}, lambda name: 3 / math.sqrt(2)),
        ({"alpha_pattern": {"to_q": 5}}, lambda name: 5 / 2 if name.endswith("to_q") else 3 / 2),
        (
            {"alpha_pattern": {"mid_block.*to_k": 5}},
            lambda name: 5 / 2 if "mid" in name and "to_k" in name else 3 / 2,
        ),
        ({"alpha_pattern": {"o_q": 5}}, lambda name: 3 / 2),  # no whole part of a name
        (
            {"lora_alpha": 7.5, "rank_pattern": {}, "bias": "none", "modules_to_save": None},
            lambda name: 7.5 / 2,
        ),
        ({"init_lora_weights": "gaussian", "inference_mode": True, "new": None}, lambda name: 3 / 2),
    ],
)
def test_what_a_header_says_of_the_scale_is_obeyed(
    more: dict[str, Any], factor: Callable[[str], float], model: Model, tmp_path: Path
) -> None:
    targets = sorted({layer.name for layer in model.alike})
    settings = {"r": 2, "lora_alpha": 3, "target_modules": targets} | more
    file = adapters.write_diffusers(tmp_path / lora.FILE, model.alike, settings)
    layers = [dataclasses.replace(layer, alpha=2 * factor(layer.name)) for layer in model.alike]
    model.is_right(file, layers, diffusers="new" not in more)
    folder = adapters.write_peft(tmp_path / "peft", model.alike, settings)
    model.is_right(folder, layers, diffusers=False)


def test_a_saved_adapter_with_a_scale_for_each_layer_is_saved_with_it_again(
    model: Model, tmp_path: Path
) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.layers, flat)
    model.ours(file)
    model.denoiser.save_adapter(tmp_path / "again")
    model.is_right(tmp_path / "again", model.layers)


def test_patterns_of_ranks_and_alphas_of_an_encoder_count(model: Model, tmp_path: Path) -> None:
    layers = [layer for layer in model.layers if layer.component == "text_encoder"]
    settings = {"r": 2, "lora_alpha": 1, "target_modules": ["q_proj", "out_proj"]}
    settings["rank_pattern"] = {outer(layer): len(layer.down) for layer in layers}
    settings["alpha_pattern"] = {outer(layer): layer.alpha for layer in layers}
    file = adapters.write_diffusers(tmp_path / lora.FILE, layers, settings)
    model.is_right(file, layers, diffusers=False)  # diffusers 0.42 passes these patterns over


REFUSED_SETTINGS: dict[str, Any] = {
    "bias": "all",
    "lora_bias": True,
    "modules_to_save": ["conv_in"],
    "layer_replication": [[0, 2]],
    "trainable_token_indices": [1, 2],
    "target_parameters": ["weight"],
    "megatron_config": {"a": 1},
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"a": 1},
    "lora_ga_config": {"a": 1},
    "velora_config": {"a": 1},
    "alora_invocation_tokens": [1],
    "use_qalora": True,
    "monteclora_config": {"a": 1},
    "use_bdlora": {"a": 1},
    "arrow_config": {"a": 1},
    "kasa_config": {"a": 1},
    "ensure_weight_tying": True,
    "init_lora_weights": "pissa_niter_4",
    "something_new": 3,
    "use_dora": True,
    "r": 3,
    "lora_alpha": "two",
    "rank_pattern": {"to_q": 3},
    "alpha_pattern": {"(": 3},
    "exclude_modules": ["to_k"],
    "target_modules": ["to_k"],
    "peft_type": "LOHA",
}


@pytest.mark.parametrize("name", REFUSED_SETTINGS)
def test_a_setting_that_changes_numbers_and_is_not_read_is_refused(
    name: str, model: Model, tmp_path: Path
) -> None:
    settings = {"r": 2, "lora_alpha": 3, name: REFUSED_SETTINGS[name]}
    before = model.ours(adapters.write_diffusers(tmp_path / "x.safetensors", model.alike))
    folder = adapters.write_peft(tmp_path / "peft", model.alike, settings)
    words = {"r": "rank 3", "rank_pattern": "rank 3", "alpha_pattern": "cannot be read"}
    for place in (folder, adapters.write_diffusers(tmp_path / lora.FILE, model.alike, settings)):
        with pytest.raises(UserError, match=words.get(name, name)) as caught:
            model.ours(place)
        assert "\n" not in str(caught.value)
        assert apart(weights_of(model.denoiser), before) == 0  # the one before stays


def test_every_setting_of_peft_is_thought_of() -> None:
    import peft

    from mitune.families.adapter_settings import HARMLESS, OBEYED

    known = {setting.name for setting in dataclasses.fields(peft.LoraConfig)}
    assert known >= HARMLESS | OBEYED
    decided = HARMLESS | OBEYED | REFUSED_SETTINGS.keys()
    assert known <= decided, f"decide what these do: {known - decided}"


def test_magnitudes_that_the_settings_deny_are_refused(model: Model, tmp_path: Path) -> None:
    file = adapters.write_diffusers(tmp_path / lora.FILE, model.alike, {"r": 2, "use_dora": False})
    tensors = load_file(file)
    for layer in model.alike:
        tensors[f"unet.{layer.name}.lora_magnitude_vector"] = torch.ones(len(layer.up))
    save_file(
        tensors, file, metadata={"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.use_dora": False})}
    )
    with pytest.raises(UserError, match="use_dora=false"):
        model.ours(file)


# -- refusals ------------------------------------------------------------------------------------------------


OTHERS = {
    "hada_w1_a": "LoHa",
    "lokr_w1": "LoKr",
    "oft_blocks": "OFT",
    "lora_mid.weight": "Tucker",
    "diff": "differences",
    "diff_b": "differences",
    "reshape_weight": "reshaped",
    "w_norm": "norms",
    "lora_B.bias": "biases",
    "a1.weight": "GLoRA",
    "lora_embedding_A": "embedding",
    "something": "no part of a LoRA",
}


@pytest.mark.parametrize("suffix", OTHERS)
def test_forms_that_are_no_lora_are_refused_by_name(suffix: str, model: Model, tmp_path: Path) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat)
    layer = flat(model.network[0])
    save_file(load_file(file) | {f"{layer}.{suffix}": torch.ones(2, 2)}, file)
    with pytest.raises(UserError, match=OTHERS[suffix]) as caught:
        model.ours(file)
    assert f"{layer}.{suffix}" in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"bundle_emb.style.string_to_param.*": (2, 16)}, "textual inversion"),
        (
            {"lora_unet_nowhere.lora_down.weight": (2, 4), "lora_unet_nowhere.lora_up.weight": (4, 2)},
            "'nowhere'",
        ),
        ({"lora_te3_x.lora_down.weight": (2, 4), "lora_te3_x.lora_up.weight": (4, 2)}, "'text_encoder_3'"),
        ({"conv_in.weight": (4, 4)}, "model.path"),
        ({}, "empty"),
        ({"conv_in.lora_A.weight": (2, 4, 1, 1), "conv_in.lora_B.weight": (16, 2, 1, 1)}, "kernel"),
        ({"conv_in.lora_A.weight": (2, 4, 3, 3)}, "incomplete"),
        ({"conv_in.alpha": ()}, "incomplete"),
        (
            {"conv_in.lora_A.weight": (2, 5, 3, 3), "conv_in.lora_B.weight": (16, 2, 1, 1)},
            "4 inputs here, 5 there",
        ),
        (
            {
                "conv_in.lora_A.weight": (2, 4, 3, 3),
                "conv_in.lora_B.weight": (8, 2, 1, 1),
                "conv_in.dora_scale": (8,),
            },
            "16 outputs here, 8 there",
        ),
        ({"conv_in.lora_A.weight": (2, 4, 3, 3), "conv_in.lora_B.weight": (16, 3, 1, 1)}, "go together"),
    ],
)
def test_what_does_not_fit_is_named(
    tensors: dict[str, tuple[int, ...]], words: str, model: Model, tmp_path: Path
) -> None:
    file = tmp_path / "style.safetensors"
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(UserError, match=words) as caught:
        model.ours(file)
    assert "train stage" not in str(caught.value)


def test_layers_that_the_model_lacks_are_counted_and_named(model: Model, tmp_path: Path) -> None:
    strange = [dataclasses.replace(model.network[0], name=f"strange.{number}") for number in range(5)]
    file = adapters.write_kohya(tmp_path / "style.safetensors", [*model.network, *strange], flat)
    with pytest.raises(
        UserError, match=rf"no layer 'strange_0', .* and 2 more \(5 of .* {len(model.network) + 5} "
    ):
        model.ours(file)
    twice = tmp_path / "twice.safetensors"
    both = load_file(adapters.write_kohya(file, model.network, flat))
    save_file(both | load_file(adapters.write_kohya(twice, model.network, original)), twice)
    with pytest.raises(UserError, match="twice"):
        model.ours(twice)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(value: float, model: Model, tmp_path: Path) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat)
    for suffix in ("alpha", "lora_up.weight"):
        tensors = load_file(file)
        tensors[f"{flat(model.network[0])}.{suffix}"].fill_(value)
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(UserError, match="no finite numbers"):
            model.ours(tmp_path / "bad.safetensors")


def _one_layer(file: Path, alpha: Tensor, **changed: Tensor) -> Path:
    """A LoRA of kohya's for one layer of the UNet, whose alpha is ``alpha``."""
    tensors = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 2), "alpha": alpha}
    tensors |= {name.replace("__", "."): value for name, value in changed.items()}
    save_file({f"lora_unet_x.{name}": value for name, value in tensors.items()}, file)
    return file


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.float16, torch.float64]
)
def test_an_alpha_may_be_a_number_of_any_type(kind: torch.dtype, tmp_path: Path) -> None:
    """What diffusers' convert_state_dict_to_kohya writes is a whole number."""
    opened = open_file(_one_layer(tmp_path / "x.safetensors", torch.tensor(4, dtype=kind)))
    (parts,) = opened.layers.values()
    assert float(parts["alpha"]) == 4.0


@pytest.mark.parametrize(
    ("alpha", "changed"),
    [
        (torch.tensor(math.inf), {}),
        (torch.tensor(True), {}),
        (torch.tensor(4 + 1j), {}),
        (torch.tensor(4), {"lora_up__weight": torch.ones(4, 2, dtype=torch.int64)}),
    ],
)
def test_only_an_alpha_may_be_whole_and_it_must_be_a_number(
    alpha: Tensor, changed: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no finite numbers"):
        open_file(_one_layer(tmp_path / "x.safetensors", alpha, **changed))


def test_whole_alphas_scale_as_others_do(model: Model, tmp_path: Path) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat)
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith(".alpha")]:
        tensors[name] = torch.tensor(3.0)
    save_file(tensors, file)
    expected = model.ours(file)
    for name in [name for name in tensors if name.endswith(".alpha")]:
        tensors[name] = torch.tensor(3)
    save_file(tensors, file)
    assert apart(model.ours(file), expected) == 0


@pytest.mark.parametrize("name", ["r", "lora_alpha", "unet", "unet.", ".r", "", "vae.r", "lora_unet.r"])
def test_settings_of_no_part_are_named_with_where_they_belong(name: str, tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps({name: 4})}
    tensors = {"unet.x.lora_A.weight": torch.ones(4, 4), "unet.x.lora_B.weight": torch.ones(4, 4)}
    save_file(tensors, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(UserError) as caught:
        open_file(tmp_path / "x.safetensors")
    line = str(caught.value)
    assert "\n" not in line
    assert f"lora_adapter_metadata: it says {name!r}, which is of no part of a model" in line
    assert "'unet.r'" in line
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": '{"unet.r": 4}'})
    assert open_file(tmp_path / "x.safetensors").settings == {"unet": {"r": 4}}


@pytest.mark.parametrize(
    ("notes", "word"),
    [
        ({"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}'}, "lokr"),
        ({"ss_network_module": "networks.oft"}, "networks.oft"),
        ({"ss_network_module": "lycoris.kohya", "ss_network_args": "{"}, "not valid JSON"),
        ({"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "locon"}'}, None),
        ({"ss_network_module": "networks.lora_flux", "ss_network_args": "None"}, None),
    ],
)
def test_kohyas_notes_say_what_the_tensors_are(
    notes: dict[str, str], word: str | None, model: Model, tmp_path: Path
) -> None:
    file = adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat, **notes)
    if word is None:
        model.is_right(file, model.network, diffusers=False)
        return
    with pytest.raises(UserError, match=word):
        model.ours(file)


def test_a_folder_says_what_is_in_it(model: Model, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            model.ours(tmp_path)
        assert "train stage" not in str(caught.value)
        return str(caught.value)

    assert "empty" in refusal()
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "logs").mkdir()
    assert "it holds logs/, notes.txt" in refusal()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    assert "pickled" in refusal()
    adapters.write_kohya(tmp_path / "style.safetensors", model.network, flat)
    model.is_right(tmp_path, model.network, diffusers=False)
    adapters.write_kohya(tmp_path / "other.safetensors", model.network, flat)
    assert "other.safetensors, style.safetensors" in refusal()
    for name in ("x.bin", "x.pt", "x.CKPT"):
        (tmp_path / name).write_bytes(b"pickled")
        with pytest.raises(UserError, match=r"pickled.*save_file"):
            model.ours(tmp_path / name)
    with pytest.raises(UserError, match="not a safetensors file"):
        model.ours(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="whole model"):
        model.ours(model.folder)


# -- other families ------------------------------------------------------------------------------------------


def test_sdxl_with_two_encoders(tmp_path: Path) -> None:
    from tests.families.test_sdxl import build

    model = Model(build(tmp_path))
    assert {layer.component for layer in model.layers} == {"unet", "text_encoder", "text_encoder_2"}
    for name, naming in (("ours", flat), ("theirs", original)):

        def called(layer: Layer, naming: Callable[..., str] = naming) -> str:
            return flat(layer, "lora_te1") if layer.component.startswith("text") else naming(layer)

        file = adapters.write_kohya(tmp_path / f"{name}.safetensors", model.layers, called)
        model.is_right(file, model.layers, diffusers=False)
    model.is_right(adapters.write_kohya(tmp_path / "some.safetensors", model.alike, flat), model.alike)
    one = [layer for layer in model.layers if layer.component == "text_encoder_2"]
    settings = {"r": 2, "lora_alpha": 1, "rank_pattern": {}, "alpha_pattern": {}}
    for layer in one:
        settings["rank_pattern"][layer.name] = len(layer.down)  # type: ignore[index]
        settings["alpha_pattern"][layer.name] = layer.alpha  # type: ignore[index]
    model.is_right(adapters.write_peft(tmp_path / "peft", one, settings), one, diffusers=False)


QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
FLUX = {
    "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
    "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
    "transformer_blocks.0.ff_context.net.2": "double_blocks.0.txt_mlp.2",
    "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.lin",
    "single_transformer_blocks.0.norm.linear": "single_blocks.0.modulation.lin",
    "single_transformer_blocks.0.proj_out": "single_blocks.0.linear2",
}
SD3 = {
    "transformer_blocks.0.attn.to_out.0": "joint_blocks.0.x_block.attn.proj",
    "transformer_blocks.0.attn.to_add_out": "joint_blocks.0.context_block.attn.proj",
    "transformer_blocks.1.ff.net.2": "joint_blocks.1.x_block.mlp.fc2",
    "transformer_blocks.0.norm1_context.linear": "joint_blocks.0.context_block.adaLN_modulation.1",
    "context_embedder": "context_embedder",
}


def fused(
    model: Model, theirs: str, block: str, names: tuple[str, ...], layers: list[Layer]
) -> dict[str, Tensor]:
    """One pair for several layers, their outputs one after the other; what it is of each goes to ``layers``."""
    weights = [model.base[f"transformer.{block}.{name}.weight"] for name in names]
    generator = torch.Generator().manual_seed(8)
    down = 0.3 * torch.randn(2, weights[0].shape[1], generator=generator)
    up = 0.3 * torch.randn(sum(map(len, weights)), 2, generator=generator)
    for name, part in zip(names, up.split([len(weight) for weight in weights]), strict=True):
        layers.append(Layer("transformer", f"{block}.{name}", down, part, 3))
    return {
        f"{theirs}.lora_down.weight": down,
        f"{theirs}.lora_up.weight": up,
        f"{theirs}.alpha": torch.tensor(3.0),
    }


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from tests.families.test_flux import build

    return Model(
        build(tmp_path_factory.mktemp("flux")), (".to_q", ".proj_mlp", ".add_k_proj", *FLUX, ".q_proj")
    )


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from tests.families.test_sd3 import build

    return Model(build(tmp_path_factory.mktemp("sd3")), (".to_q", ".add_k_proj", *SD3, ".q_proj"))


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_transformers_under_all_their_names(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Model = request.getfixturevalue(family)
    names = FLUX if family == "flux" else SD3
    # Names of diffusers: trainers of the transformer's own, ours for ComfyUI, with alphas beside peft's names.
    heads = prefixes(list(model.denoiser.components))

    def comfy(layer: Layer) -> str:
        return f"{heads[layer.component]}_{outer(layer).replace('.', '_')}"

    model.is_right(
        adapters.write_kohya(tmp_path / "comfy.safetensors", model.layers, comfy), model.layers, False
    )
    plain = [dataclasses.replace(layer, alpha=len(layer.down)) for layer in model.layers]
    model.is_right(adapters.write_diffusers(tmp_path / lora.FILE, plain), plain)
    tensors = load_file(adapters.write_diffusers(tmp_path / "trainer.safetensors", model.network))
    for layer in model.network:
        tensors[f"transformer.{layer.name}.alpha"] = torch.tensor(float(layer.alpha))
    save_file(tensors, tmp_path / "trainer.safetensors")
    model.is_right(tmp_path / "trainer.safetensors", model.network, diffusers=family == "flux")
    same = [dataclasses.replace(layer, alpha=3 * len(layer.down) / 2) for layer in model.network]
    ranks = {layer.name: len(layer.down) for layer in same}
    alphas = {layer.name: layer.alpha for layer in same}
    settings = {"rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": sorted(ranks)}
    model.is_right(adapters.write_peft(tmp_path / "peft", same, settings), same, diffusers=False)
    network = {"transformer": model.denoiser.pipeline.transformer}
    end = [layer for layer in adapters.make(network, ("proj_out",)) if layer.name == "proj_out"]
    end = [dataclasses.replace(layer, alpha=len(layer.down)) for layer in end]
    model.denoiser.unload_adapter()  # a block's proj_out is another layer
    model.is_right(adapters.write_diffusers(tmp_path / lora.FILE, end), end, diffusers=False)
    # The makers' names, in which projections are one layer: as kohya's scripts and other trainers write them.
    layers = [layer for layer in model.network if layer.name in names]
    whole = list(layers)
    qkv = ("double_blocks.0.img_attn.qkv" if family == "flux" else "joint_blocks.0.x_block.attn.qkv",)
    more = fused(model, *qkv, "transformer_blocks.0", QKV, whole)
    if family == "flux":
        single = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        more |= fused(model, "single_blocks.0.linear1", "single_transformer_blocks.0", single, whole)
    for head, flatten in (("lora_unet_", True), ("diffusion_model.", False)):
        file = tmp_path / f"{head}safetensors"
        adapters.write_kohya(file, layers, lambda layer: names[layer.name])
        tensors = {}
        for key, value in (load_file(file) | more).items():
            layer, dot, rest = key.partition(".lora_") if ".lora_" in key else key.rpartition(".")
            tensors[head + (layer.replace(".", "_") if flatten else layer) + dot + rest] = value
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, file.with_suffix(".safetensors")
        )
        model.is_right(file.with_suffix(".safetensors"), whole, diffusers=False)


@pytest.mark.parametrize("head", ["", "diffusion_model."])
def test_the_processors_of_xlabs_for_flux(head: str, flux: Model, tmp_path: Path) -> None:
    layers: list[Layer] = []
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    tensors = fused(flux, "double_blocks.0.processor.qkv_lora1", double, QKV, layers)
    added = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
    tensors |= fused(flux, "double_blocks.0.processor.qkv_lora2", double, added, layers)
    tensors |= fused(flux, "double_blocks.0.processor.proj_lora2", double, ("attn.to_add_out",), layers)
    tensors |= fused(flux, "single_blocks.0.processor.qkv_lora", single, QKV, layers)
    tensors |= fused(flux, "single_blocks.0.processor.proj_lora", single, ("proj_out",), layers)
    file = tmp_path / "style.safetensors"
    named = {
        key.replace(".lora_", "."): value for key, value in tensors.items() if not key.endswith(".alpha")
    }
    save_file({head + key: value for key, value in named.items()}, file)
    flux.is_right(file, [dataclasses.replace(layer, alpha=len(layer.down)) for layer in layers])


def test_kohyas_flux_as_diffusers_reads_it(flux: Model, tmp_path: Path) -> None:
    layers: list[Layer] = []
    tensors = {}
    for theirs, names in (
        ("img_attn_qkv", QKV),
        ("txt_mlp_0", ("ff_context.net.0.proj",)),
    ):
        name = f"lora_unet_double_blocks_0_{theirs}"
        tensors |= fused(flux, name, "transformer_blocks.0", names, layers)
    save_file(tensors, tmp_path / "style.safetensors")
    flux.is_right(tmp_path / "style.safetensors", layers)
