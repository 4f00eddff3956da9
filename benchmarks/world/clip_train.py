"""Train the shapes world's CLIP: ``python -m benchmarks.world.clip_train --out FOLDER``.

A small standard ``CLIPModel``. All of it learns by CLIP's loss (Radford et al. 2021, both directions over the batch)
with near misses of each caption as further wrong answers (Yuksekgonul et al. 2023, "NegCLIP"), so that it tells
swapped attributes and relations. To get there in minutes on a CPU, the loss first trains two networks that are told
what is in the scene and in the caption (:mod:`clip_teacher`); the text half, which starts from the world's taught text
encoder, then learns to say what the one says, the picture half what the other says (and each patch of the layer before
the last what it shows); last, both halves learn by the loss itself, from pictures and captions alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from benchmarks.world.architecture import PROMPT_TOKENS, WIDTH
from benchmarks.world.architecture import with_projection as as_wide
from benchmarks.world.clip_examples import PATCH, SEEN, Views, as_numbers, draw_views, mirrored, questions
from benchmarks.world.clip_teacher import CaptionReader, SceneReader, said
from mitune.files import write_json
from mitune.worlds import shapes
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.vocabulary import PICTURE_SIZE

MODEL = Path(shapes.__file__).parent / "model"
MEAN, STD = 0.5, 0.5  # of all channels: what the processor takes off, and divides by
LARGEST_SCALE = 100.0  # of the logits, as in CLIP

Log = list[dict[str, Any]]
Judge = Callable[[list[Any], list[str]], tuple[Tensor, Tensor]]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the published model's own options are in its ``training_log.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world.clip_train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--pictures", type=int, default=8_000)
    parser.add_argument("--captions", type=int, default=2, help="of each picture")
    parser.add_argument("--misses", type=int, default=3, help="near misses of each caption")
    parser.add_argument("--layers", type=int, default=3, help="of the picture half")
    parser.add_argument("--teacher-steps", type=int, default=1_000, help="of the networks that are told")
    parser.add_argument("--text-steps", type=int, default=600, help="of the text half, towards them")
    parser.add_argument("--vision-steps", type=int, default=1_000, help="of the picture half, towards them")
    parser.add_argument("--steps", type=int, default=200, help="of both halves together, at the end")
    parser.add_argument(
        "--batch", type=int, default=32, help="pictures; the teacher's is eight times as large"
    )
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--last-lr", type=float, default=3e-4, help="of both halves together")
    parser.add_argument("--freeze-text", action="store_true", help="at the end, train the picture half alone")
    parser.add_argument("--rough", type=float, default=0.3, help="share of pictures blurred and made noisy")
    parser.add_argument("--init", type=Path, help="folder of such a model to go on from")
    parser.add_argument("--questions", type=int, default=200, help="of the test, a kind of error")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def build_clip(tokenizer: CLIPTokenizer, width: int = 96, layers: int = 3) -> CLIPModel:
    """A vision transformer of 64 patches, and the text encoder's three layers (the third is new); random weights."""
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": PROMPT_TOKENS,
        "projection_dim": WIDTH,
        **ends,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": PICTURE_SIZE,
        "patch_size": PATCH,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


@torch.no_grad()
def take_text(model: CLIPModel, taught: CLIPTextModel) -> None:
    """Start the text half from the world's text encoder: its features at first are the encoder's end-token states."""
    wide = as_wide(taught)
    model.text_model.load_state_dict(wide.text_model.state_dict())
    model.text_projection.weight.copy_(wide.text_projection.weight)


@torch.no_grad()
def take_patches(model: CLIPModel, pictures: Tensor) -> None:
    """Start the patch embedding from the principal components of patches of normalised ``pictures`` [n, 3, H, W]."""
    weight = model.vision_model.embeddings.patch_embedding.weight
    patches = nn.functional.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    order = values.argsort(descending=True)[: len(weight)]
    # Evened out, but not so far that the least components, which are noise, count as much as the first.
    weight.copy_((vectors[:, order] / (values[order] + 0.02).sqrt()).T.view_as(weight) * 0.3)


def as_pixels(pictures: np.ndarray, device: str) -> Tensor:
    """uint8 [n, 64, 64, 3] to float [n, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 255


def roughen(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blur some of the pictures [n, 3, H, W], and add noise: a judge of drawn pictures must not need clean edges."""
    chosen = (torch.rand(len(pictures), generator=generator) < share).nonzero().flatten()
    if not len(chosen):
        return pictures
    n = len(chosen)
    offsets = torch.arange(-3, 4)
    kernel = torch.exp(-0.5 * (offsets / (0.3 + 1.2 * torch.rand(n, 1, generator=generator))) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    rows = nn.functional.pad(pictures[chosen].flatten(0, 1)[None], (3, 3, 3, 3), mode="replicate")
    rows = nn.functional.conv2d(rows, kernel[:, None, None, :], groups=3 * n)
    rows = nn.functional.conv2d(rows, kernel[:, None, :, None], groups=3 * n).view(n, 3, *pictures.shape[2:])
    noise = 0.05 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(rows.shape, generator=generator)
    return pictures.index_copy(0, chosen, (rows + noise).clamp(0, 1))


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's loss with near misses, and the share of pictures that prefer their caption to all its near misses.

    Features of length one: ``images`` [n, d] and ``texts`` [n, 1 + k, d] (their captions, then the near misses). Three
    cross-entropies: of a picture over the batch's captions and its own near misses, of a caption over the batch's
    pictures, and of a picture over its caption and near misses alone, which the first is soon blind to.
    """
    across = scale * images @ texts[:, 0].T
    own = scale * torch.einsum("nd,nkd->nk", images, texts)
    target = torch.arange(len(images), device=images.device)
    entropy = nn.functional.cross_entropy
    both = entropy(torch.cat([across, own[:, 1:]], 1), target) + entropy(across.T, target)
    loss = both / 2 + entropy(own, torch.zeros_like(target))
    return loss, (own.argmax(1) == 0).float().mean()


def patch_loss(states: Tensor, heads: nn.Linear, seen: Tensor) -> Tensor:
    """Mean cross-entropy of what each patch says it shows; states [n, patches, width], seen [n, patches, facts]."""
    parts = heads(states).split([len(words) + 1 for words in SEEN.values()], dim=-1)
    losses = [
        nn.functional.cross_entropy(part.flatten(0, 1), seen[..., i].flatten())
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).mean()


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], device: str) -> Tensor:
    """Features of length one [n, d] of texts; one said twice is encoded once."""
    unique = list(dict.fromkeys(texts))
    number = {text: place for place, text in enumerate(unique)}
    tokens = tokenizer(unique, padding=True, truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt")
    inputs = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
    features = nn.functional.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    return features[torch.tensor([number[text] for text in texts], device=device)]


def image_features(model: CLIPModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Features of length one [n, d] of pictures in [0, 1], and the patches' states before the last layer."""
    found = model.vision_model((pictures - MEAN) / STD, output_hidden_states=True)
    features = nn.functional.normalize(model.visual_projection(found.pooler_output), dim=-1)
    return features, found.hidden_states[-2][:, 1:]


class Descent:
    """AdamW at a rate that rises and falls once, and a line of the log every fifty steps.

    Args:
        stage: its name in the log; ``log``: where the lines go.
        parameters: what learns; ``lr``: the highest rate; ``steps``: of all.
    """

    def __init__(self, stage: str, parameters: list[nn.Parameter], lr: float, steps: int, log: Log) -> None:
        self.stage, self.parameters, self.steps, self.log = stage, parameters, steps, log
        self.optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0.01, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=steps, pct_start=0.1
        )
        self.mean: dict[str, float] = {}
        self.start, self.cpu = time.time(), time.process_time()

    def step(self, step: int, loss: Tensor, **figures: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        for name, value in {"loss": loss, **figures}.items():
            self.mean[name] = self.mean.get(name, 0.0) + float(value.detach()) / 50
        if (step + 1) % 50 == 0:
            times = {"seconds": time.time() - self.start, "cpu_seconds": time.process_time() - self.cpu}
            row = {name: round(value, 4) for name, value in self.mean.items()}
            self.log.append(
                {"stage": self.stage, "step": step + 1, **row, **{k: round(v) for k, v in times.items()}}
            )
            print(self.log[-1], flush=True)
            self.mean = {}


def teach(views: Views, options: argparse.Namespace, log: Log) -> tuple[SceneReader, CaptionReader]:
    """Train the two networks that are told what is in a scene and in a caption."""
    device = options.device
    scenes, captions = SceneReader(WIDTH).to(device), CaptionReader(WIDTH).to(device)
    scale = nn.Parameter(torch.tensor(2.66, device=device))
    facts = said([text for rows in views.texts for row in rows for text in row])
    facts = facts.view(len(views.texts), options.captions, 1 + options.misses, *facts.shape[1:]).to(device)
    objects, gaps = (torch.from_numpy(part).to(device) for part in (views.objects, views.gaps))
    generator = torch.Generator().manual_seed(options.seed)
    parameters = [*scenes.parameters(), *captions.parameters(), scale]
    descent = Descent("teacher", parameters, 2e-3, options.teacher_steps, log)
    for step in range(options.teacher_steps):
        rows = torch.randint(len(objects), (8 * options.batch,), generator=generator)
        chosen = torch.randint(options.captions, (8 * options.batch,), generator=generator)
        texts = captions(facts[rows, chosen])
        loss, right = clip_loss(
            scenes(objects[rows], gaps[rows]), texts, scale.exp().clamp(max=LARGEST_SCALE)
        )
        descent.step(step, loss, right=right)
    return scenes.eval().requires_grad_(False), captions.eval().requires_grad_(False)


def train_text(
    model: CLIPModel, tokenizer: CLIPTokenizer, captions: CaptionReader, views: Views, options: argparse.Namespace,
    log: Log,
) -> None:  # fmt: skip
    """Teach the text half to say of a caption what the teacher says of its parse: 1 − cosine.

    Args:
        model, tokenizer: whose text half learns; ``log``: gets a line every fifty steps.
        captions: the teacher; ``views``: pictures with their captions; ``options``: of the command line.
    """
    texts = [text for rows in views.texts for row in rows for text in row]
    rng = np.random.default_rng([options.seed, 2])
    parameters = [*model.text_model.parameters(), *model.text_projection.parameters()]
    descent = Descent("text", parameters, options.lr / 2, options.text_steps, log)
    for step in range(options.text_steps):
        batch = [texts[row] for row in rng.integers(len(texts), size=2 * options.batch)]
        target = captions(said(batch).to(options.device))
        features = text_features(model, tokenizer, batch, options.device)
        descent.step(step, 1 - (features * target).sum(-1).mean())


def train_vision(
    model: CLIPModel,
    scenes: SceneReader,
    heads: nn.Linear,
    views: Views,
    options: argparse.Namespace,
    log: Log,
) -> None:
    """Teach the picture half to say of a picture what the teacher says of its objects, and patches what they show.

    Args:
        model: whose picture half learns; ``heads``: what reads its patches; ``log``: as for :func:`train_text`.
        scenes: the teacher; ``views``: pictures with what is in them; ``options``: of the command line.
    """
    rng, generator = np.random.default_rng([options.seed, 3]), torch.Generator().manual_seed(options.seed)
    take_patches(model, (as_pixels(views.pictures[:500], options.device) - MEAN) / STD)
    parameters = [
        *model.vision_model.parameters(),
        *model.visual_projection.parameters(),
        *heads.parameters(),
    ]
    descent = Descent("vision", parameters, options.lr, options.vision_steps, log)
    for step in range(options.vision_steps):
        rows = rng.integers(len(views.pictures), size=options.batch)
        pictures, seen, objects = mirrored(views, rows, rng.random(options.batch) < 0.5)
        target = scenes(torch.from_numpy(objects), torch.from_numpy(views.gaps[rows]))
        shown = roughen(as_pixels(pictures, "cpu"), options.rough, generator).to(options.device)
        images, states = image_features(model, shown)
        patches = patch_loss(states, heads, torch.from_numpy(seen).to(options.device))
        apart = 1 - (images * target.to(options.device)).sum(-1).mean()
        descent.step(step, 4 * apart + patches, apart=apart, patches=patches)


def train(
    model: CLIPModel, tokenizer: CLIPTokenizer, views: Views, options: argparse.Namespace, log: Log
) -> None:
    """Train both halves by CLIP's loss, from pictures and captions alone; or the picture half, towards a text half that
    stays as it is (``--freeze-text``: more than twice as many pictures a second, as a caption is read once).

    Args:
        model, tokenizer: what learns; ``log``: as for :func:`train_text`.
        views: pictures with their captions; ``options``: of the command line.
    """
    rng, generator = np.random.default_rng([options.seed, 4]), torch.Generator().manual_seed(options.seed)
    frozen = (
        [*model.text_model.parameters(), *model.text_projection.parameters()] if options.freeze_text else []
    )
    learning = [p for p in model.parameters() if not any(p is other for other in frozen)]
    descent = Descent("vision" if frozen else "both", learning, options.last_lr, options.steps, log)
    known: dict[tuple[int, int], Tensor] = {}

    def read(row: int, caption: int) -> Tensor:
        if (row, caption) not in known:
            with torch.no_grad():
                texts = views.texts[row][caption]
                known[row, caption] = text_features(model, tokenizer, texts, options.device)
        return known[row, caption]

    for step in range(options.steps):
        rows = rng.integers(len(views.pictures), size=options.batch)
        chosen = rng.integers(options.captions, size=options.batch)
        pairs = list(zip(rows.tolist(), chosen.tolist(), strict=True))
        shown = roughen(as_pixels(views.pictures[rows], "cpu"), options.rough, generator)
        images, _ = image_features(model, shown.to(options.device))
        if frozen:
            features = torch.stack([read(*pair) for pair in pairs])
        else:
            texts = [text for row, caption in pairs for text in views.texts[row][caption]]
            features = text_features(model, tokenizer, texts, options.device).view(len(rows), -1, WIDTH)
        scale = model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        loss, right = clip_loss(images, features, scale)
        descent.step(step, loss, right=right, scale=scale)


@torch.no_grad()
def accuracy(judge: Judge, n: int, seed: int) -> dict[str, float]:
    """Share of fresh scenes for which the true caption scores above one wrong by an error, by kind of error.

    ``judge(scenes, texts)`` gives features of scenes and of texts; ``n`` scenes a kind; ``all``: mean over the kinds.
    """
    asked = questions(n, seed)
    right: dict[str, list[bool]] = {}
    for start in range(0, len(asked), 128):
        part = asked[start : start + 128]
        images, texts = judge([q.scene for q in part], [text for q in part for text in (q.true, q.wrong)])
        scores = torch.einsum("nd,nkd->nk", images, texts.view(len(part), 2, -1))
        for question, better in zip(part, (scores[:, 0] > scores[:, 1]).tolist(), strict=True):
            right.setdefault(question.kind, []).append(better)
    found = {kind: float(np.mean(values)) for kind, values in right.items()}
    return {"all": float(np.mean(list(found.values()))), **found}


def judge_of(model: CLIPModel, tokenizer: CLIPTokenizer, device: str = "cpu") -> Judge:
    """The model as :func:`accuracy` asks it: on clean renders."""

    def judge(scenes: list[Any], texts: list[str]) -> tuple[Tensor, Tensor]:
        pictures = as_pixels(np.stack([render(scene)[0] for scene in scenes]), device)
        return image_features(model, pictures)[0], text_features(model, tokenizer, texts, device)

    return judge


def judge_of_teacher(scenes: SceneReader, captions: CaptionReader) -> Judge:
    """The networks that are told, as :func:`accuracy` asks them: the best that the model can learn from them."""

    def judge(shown: list[Any], texts: list[str]) -> tuple[Tensor, Tensor]:
        objects, gaps = zip(*map(as_numbers, shown), strict=True)
        images = scenes(torch.from_numpy(np.stack(objects)), torch.from_numpy(np.stack(gaps)))
        return images, captions(said(texts))

    return judge


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model (float16), its tokenizer and its picture processor, as ``CLIPModel.from_pretrained`` and
    ``CLIPProcessor`` read them.
    """
    copy = CLIPModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": PICTURE_SIZE},
        crop_size={"height": PICTURE_SIZE, "width": PICTURE_SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(folder)


def main(argv: list[str] | None = None) -> None:
    """Train, test on fresh renders, and write the folder with its training log."""
    options = arguments(argv)
    start, log, right = time.time(), Log(), {}
    torch.manual_seed(options.seed)
    views = draw_views(options.pictures, options.captions, options.misses, options.seed)
    print(f"{options.pictures} pictures, {time.time() - start:.0f} s", flush=True)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    if options.init:
        model = CLIPModel.from_pretrained(options.init, dtype=torch.float32)
    else:
        model = build_clip(tokenizer, layers=options.layers)
        take_text(model, CLIPTextModel.from_pretrained(MODEL / "text_encoder", dtype=torch.float32))
    model.to(options.device).train()
    classes = sum(len(words) + 1 for words in SEEN.values())
    heads = nn.Linear(model.config.vision_config.hidden_size, classes).to(options.device)

    def test(stage: str, judge: Judge) -> None:
        right[stage] = accuracy(judge, options.questions, options.seed + 1)
        print(json.dumps({stage: right[stage]}), flush=True)

    if options.teacher_steps:
        scenes, captions = teach(views, options, log)
        test("teacher", judge_of_teacher(scenes.cpu(), captions.cpu()))
        train_text(model, tokenizer, captions, views, options, log)
        train_vision(model, scenes, heads, views, options, log)
        save(model, tokenizer, Path(f"{options.out}-taught"))
        test("taught", judge_of(model.eval(), tokenizer, options.device))
    if options.steps:
        train(model.train(), tokenizer, views, options, log)
        test("both", judge_of(model.eval(), tokenizer, options.device))
    save(model, tokenizer, options.out)
    machine = {"platform": platform.platform(), "device": options.device, "threads": torch.get_num_threads()}
    figures = {
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "machine": machine,
        "torch": torch.__version__,
        "seconds": round(time.time() - start),
        "cpu_seconds": round(time.process_time()),
        "accuracy": right,
        "log": log,
    }
    write_json(options.out / "training_log.json", figures)
    print(json.dumps({"folder": str(options.out), "seconds": figures["seconds"], "accuracy": right}))


if __name__ == "__main__":
    main()
