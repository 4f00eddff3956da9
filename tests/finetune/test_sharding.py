"""FSDP under an adapter: what is refused, what each of two processes holds, and that the numbers stay the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.finetune.sharding import asked, check_launch
from tests.cli import compose

ROOT = Path(__file__).parents[2]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def check(*overrides: str, processes: int = 2, **environment: str) -> str | None:
    return check_launch(compose(overrides), processes, environment)


def test_nothing_is_said_of_plain_processes() -> None:
    assert check() is None
    assert check(**FSDP) is None
    assert not asked({})
    assert asked(FSDP)


def test_deepspeed_is_data_parallel_and_says_so() -> None:
    assert "data parallelism" in (check(**DEEPSPEED) or "")
    with pytest.raises(UserError, match=r"fsdp\.yaml"):
        check(**DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"})


@pytest.mark.parametrize(
    ("overrides", "environment", "hint"),
    [
        ([], {"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ([], {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: false"),
        (["train.compile=true"], {}, "train.compile=true"),
        (["model.offload=model"], {}, "model.offload=model"),
        (["model.quantization=8bit"], {}, "model.quantization=8bit"),
        (["train.batch_size=49"], {}, "a multiple of 2"),
    ],
)
def test_what_fsdp_cannot_keep_to_is_refused(
    overrides: list[str], environment: dict[str, str], hint: str
) -> None:
    with pytest.raises(UserError, match=hint):
        check(*overrides, **FSDP | environment)
    assert check(*overrides, processes=1, **FSDP | environment) is None  # one process holds all anyway


# Every process: gradients of an adapter with and without sharding, by each way of training; what it holds then.
WORK = """
import sys
from pathlib import Path
import torch
from torch.distributed.tensor import DTensor
from mitune import distributed
from mitune.families import load_denoiser
from tests.cli import compose
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.catalogue import AdapterConfig
from mitune.finetune import sharding
from mitune.finetune.gradients import Gradients

def gradients(shard, kind, checkpointing):
    denoiser = load_denoiser(compose([f"model.path={sys.argv[1]}", "model.device=cpu"]).model)
    attach(denoiser, AdapterConfig(kind=kind, rank=2, alpha=2), seed=3)
    parameters = trainable_parameters(denoiser)
    torch.manual_seed(7)
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter, std=0.1)
    network = denoiser.network
    whole = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    if shard:
        sharding.shard(network, parameters.values(), denoiser.device)
        frozen = [p for p in network.parameters() if not p.requires_grad]
        assert all(isinstance(p, DTensor) for p in frozen)
        assert not any(isinstance(p, DTensor) for p in parameters.values())
        own = sum(p.to_local().numel() for p in frozen)
        print("share", own / whole)
        assert 0.4 < own / whole < 0.62
    if checkpointing:
        network.enable_gradient_checkpointing()
    texts = denoiser.encode_prompts(["a red circle", "a blue dog"])
    for number in range(2):  # twice: what the first pass gathered has been let go
        generator = torch.Generator().manual_seed(distributed.state().process_index + number)
        z = torch.randn(2, *denoiser.latent_shape, generator=generator)
        loss = denoiser.epsilon(z, torch.tensor([300, 700]), texts).square().mean()
        loss.backward()
    Gradients(list(parameters.values())).sum()
    return {name: p.grad.clone() for name, p in parameters.items()}

distributed.state()
for kind in ("dora", "lora"):
    for checkpointing in (False, True):
        plain, sharded = (gradients(shard, kind, checkpointing) for shard in (False, True))
        assert plain.keys() == sharded.keys() and any(g.abs().max() > 0 for g in plain.values())
        for name in plain:
            assert torch.equal(plain[name], sharded[name]), (kind, checkpointing, name)
distributed.stop()
print("equal")
"""


def test_two_processes_hold_half_each_and_gradients_are_the_same_bits(tiny_pipeline_folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(tiny_pipeline_folder)],
            env=os.environ | here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "equal" in out
