"""A function of your own as a score: it judges, chooses and is compared like any other."""

import torch

import mitune


def brightness(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Give the mean level of pictures [n, 3, H, W] in [0, 1]: [n], higher = better."""
    return pictures.mean((1, 2, 3))


model = mitune.load("shapes")
short = mitune.SamplerConfig(steps=4)
candidates = model.draw(
    ["a red circle", "a blue square"], candidates=4, scores=["mi", brightness], sampler=short
)
print(candidates.table[["prompt", "mi", "brightness"]])
print(model.score(candidates.pictures([0, 1]), ["a red circle"] * 2, scores=brightness))
training = candidates.select(by="z(mi)+z(brightness)")
tuned = model.train(training, mitune.TrainConfig(steps=3, batch_size=2))
print(tuned.evaluate(["a green star"], scores=brightness, candidates=2, sampler=short))
