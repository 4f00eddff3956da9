"""FSDP for training an adapter: each process holds its share of the frozen network, and gathers a block when it is due.

An adapter's gradients and optimizer states are a few megabytes, so they stay whole on every process and are summed as
without FSDP; what takes the memory is the network under it. Only training is sharded: drawing candidates takes no
activations, and there each process goes at its own pace, which gathering would forbid.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mitune.errors import UserError


def _is(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes")


def asked(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether ``accelerate launch`` was given an FSDP configuration."""
    return _is(environment, "ACCELERATE_USE_FSDP")


def check_launch(settings: Any, processes: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """Check that the launcher's configuration can be kept to when training; gives a line to warn with, or None.

    ``settings``: the whole configuration. Raises UserError, saying what to change, where it cannot.
    """
    if _is(environment, "ACCELERATE_USE_DEEPSPEED"):
        if environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
            raise UserError(
                "DeepSpeed's ZeRO-3 shards the network, which mitune does by FSDP: launch with launch/fsdp.yaml"
            )
        return (
            "DeepSpeed's ZeRO-1 and 2 shard gradients and optimizer states; an adapter's are a few MB and stay whole:"
            " this is the data parallelism of launch/multi_gpu.yaml"
        )
    if not asked(environment) or processes == 1:
        return None
    if environment.get("FSDP_VERSION", "1") != "2":
        raise UserError("FSDP: mitune shards by its second version: say fsdp_version: 2 under fsdp_config")
    if _is(environment, "FSDP_OFFLOAD_PARAMS"):
        raise UserError(
            "FSDP: say fsdp_offload_params: false; with several processes a share of the network fits"
        )
    for name, plain in (("train.compile", False), ("model.offload", "none"), ("model.quantization", "none")):
        section, key = name.split(".")
        if (value := settings[section][key]) != plain:
            shown = str(value).lower()
            raise UserError(f"{name}={shown} does not go together with FSDP; leave one of them out")
    if settings.train.batch_size % processes:
        raise UserError(
            f"train.batch_size={settings.train.batch_size}: with FSDP all {processes} processes take the same number"
            f" of pictures; give a multiple of {processes}"
        )
    return None


def shard(network: nn.Module, adapter: Iterable[nn.Parameter], device: torch.device) -> None:
    """Leave of the frozen parameters of ``network`` only this process's share; ``adapter`` stays whole.

    The groups that are gathered at a time are the blocks: the members of the network's lists of modules. Every process
    has to call the network equally often from now on.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    how: dict[str, Any] = {
        "mesh": mesh,
        "ignored_params": set(adapter),
        "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false",
    }
    for part in network.children():
        for block in part if isinstance(part, nn.ModuleList) else ():
            fully_shard(block, **how)
    fully_shard(network, **how)
