"""What judges add to the bare forwards of their networks, and steering by one of them: ``python -m benchmarks.judges``.

Every judge scores the same random pictures of 512 px, each with a prompt of its own. What its networks were called with
is caught once, and these calls are then made again without anything around them, in turns with the judge: what is
beyond 1 is the judge's own, preparing pictures and texts. The networks are random, of a middling size; in published
sizes the forwards weigh more. Then DAS and best-of-N by ``blip_itm`` on the embedded world, each a command of its own
whose peak memory the system tells, beside plain sampling; the judge is small and random, so what is shown is that they
run and what they take, not that they pay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmarks import common
from mitune.config import compose
from mitune.families import load_denoiser
from mitune.referees.reward import Reward
from mitune.referees.weighted import load_reward
from tests.referees.small_blips import Size, build_blip, build_blip2
from tests.referees.small_speakers import build_llava

AT_MOST = 1.1
TEXTS = (
    "a red circle above a blue square",
    "a big green cross",
    "a cyan triangle and a small red cross",
    "a square",
)
BUILD: dict[str, Callable[[Path, Size], Path]] = {
    "blip_vqa": lambda folder, size: build_blip(folder, "BlipForQuestionAnswering", size=size),
    "blip_itm": lambda folder, size: build_blip(folder, "BlipForImageTextRetrieval", size=size),
    "blip_itc": lambda folder, size: build_blip(folder, "BlipForImageTextRetrieval", size=size),
    "caption": lambda folder, size: build_blip(folder, "BlipForConditionalGeneration", size=size),
    "blip2_itm": lambda folder, size: build_blip2(folder, size=size),
    "blip2_itc": lambda folder, size: build_blip2(folder, size=size),
    "vqascore": lambda folder, size: build_llava(folder, size=size),
}
# Runs a command and tells its peak. In a small process of its own: a child's peak begins with that of who forked it.
_WATCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"peak_mb": used.ru_maxrss / 1024, "cpu_seconds": used.ru_utime + used.ru_stime}))
sys.exit(done.returncode)
"""
Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def opened(name: str, size: Size, batch: int, place: Path, device: str) -> Reward:
    """Open the judge ``name``, of this size."""
    section: Any = OmegaConf.to_container(compose(["experiment=shapes"]).scorer)
    section[name] |= {"path": str(BUILD[name](place / name, size)), "batch_size": batch}
    if name == "blip_vqa":
        section[name] |= {"side": size.side, "phrases": "world"}
    return load_reward(name, section, device)


def calls_of(network: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """Catch the outermost calls of a network's parts that ``run`` makes."""
    found: list[Call] = []
    inside = [0]

    def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not inside[0]:
            found.append((module, given, named))
        inside[0] += 1

    def leave(*_: Any) -> None:
        inside[0] -= 1

    hooks = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in network.modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    run()
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def throughput(options: argparse.Namespace, place: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give, for every judge, its ratio to the bare forwards, and its pictures a second."""
    size = Size(options.side, options.side // 14, options.width, options.layers, 4)
    pictures = torch.rand(options.pictures, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    prompts = [TEXTS[number % len(TEXTS)] for number in range(options.pictures)]
    for name in options.judges or BUILD:
        judge: Any = opened(name, size, options.batch, place, options.device)

        def score(judge: Any = judge) -> Tensor:
            if hasattr(judge, "_text_features"):
                judge._text_features._known.clear()  # as in a first batch
            return judge.score(pictures, prompts)

        score()  # opens it
        yield against_forwards(name, "networks'", judge.model, score, options)


def against_forwards(
    name: str, whose: str, network: nn.Module, score: Callable[[], Any], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time a judge in turns with what its network was called with; gives their ratio, and its pictures a second.

    Args:
        name: of the judge; ``whose``: the forwards are, in words.
        network: the part of the judge that is called.
        score: judges ``options.pictures`` pictures, opened before.
        options: of the command.
    """
    calls = calls_of(network, score)

    def bare() -> None:
        for module, given, named in calls:
            module(*given, **named)

    seconds = common.interleave({"judge": score, "bare": bare}, options.repeats, device=options.device)
    rate = options.pictures / common.spread(seconds["judge"])["median"]
    print(f"{name}: {rate:.2f} pictures a second", flush=True)
    return (
        common.comparison(f"{name} against its {whose} forwards", seconds, "judge", "bare", AT_MOST),
        common.figure(f"{name}: pictures scored", rate, "a second"),
    )


def gradients(judge: Reward, options: argparse.Namespace) -> dict[str, Any]:
    """Say how the judge's gradient at latents of the embedded world looks: is it finite, is it there."""
    denoiser = load_denoiser("shapes", device=options.device)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(8, *denoiser.latent_shape, generator=generator).to(denoiser.device).requires_grad_()
    prompts = [TEXTS[number % len(TEXTS)] for number in range(len(z))]
    (gradient,) = torch.autograd.grad(judge.score(denoiser.decode(z), prompts).sum(), z)
    norms = gradient.flatten(1).norm(dim=1)
    return {"finite": bool(gradient.isfinite().all()), "least norm": float(norms.min()), "latents": len(z)}


def peaks(options: argparse.Namespace, judge: Path, place: Path) -> dict[str, dict[str, float]]:
    """Run plain sampling, best-of-N and DAS as commands; give what each took of memory and time."""
    prompts = place / "prompts.txt"
    prompts.write_text("\n".join(TEXTS) + "\n")
    own = f"scorer.blip_itm.path={judge}"
    common_words = [
        f"prompts.source={prompts}",
        f"model.device={options.device}",
        f"sample.of={options.paths}",
    ]
    arms = {
        "plain": ["sample.scorers=[mi]", "sample.by=mi"],
        "best of N": ["sample.scorers=[mi,blip_itm]", "sample.by=blip_itm", own],
        "das": ["sampler=das", "reward=blip_itm", "search.proposal=gradient", own],
    }
    found = {}
    for name, words in arms.items():
        command = [
            *(sys.executable, "-m", "mitune", "sample", "experiment=shapes"),
            *(f"run={place / name.replace(' ', '-')}", *common_words, *words),
        ]
        done = subprocess.run(
            [sys.executable, "-c", _WATCH, *command], cwd=common.ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="judges") as folder:
        place = Path(folder)
        pairs = list(throughput(options, place / "judges"))
        small = build_blip(place / "small", "BlipForImageTextRetrieval")
        section: Any = OmegaConf.to_container(compose(["experiment=shapes"]).scorer)
        section["blip_itm"]["path"] = str(small)
        gradient = gradients(load_reward("blip_itm", section, options.device), options)
        taken = peaks(options, small, place)
    figures = [figure for _, figure in pairs]
    figures += [
        common.figure("blip_itm: gradients at latents are finite", float(gradient["finite"]), "", 1.0)
    ]
    figures += [common.figure(f"{name}: peak memory", one["peak_mb"], "MB") for name, one in taken.items()]
    return {
        "settings": common.settings_of(options),
        "comparisons": [ratio for ratio, _ in pairs],
        "figures": figures,
        "more": {"gradient": gradient, "commands": taken},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/judges.json`` and its table."""
    parser = common.parser(
        "judges",
        __doc__,
        "judges",
        device="cpu",
        pictures=(16, "scored a round"),
        batch=(8, "pictures a forward"),
        repeats=7,
        side=(224, "px that the networks see"),
        width=(384, "of their states"),
        layers=(6, "of each network"),
        paths=(8, "of a prompt, of which the best is kept or which DAS steers"),
        threads=torch.get_num_threads(),
    )
    parser.add_argument("--judges", nargs="+", choices=sorted(BUILD), help="only these")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
