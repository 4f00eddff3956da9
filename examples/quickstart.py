"""The whole loop in ten lines, on the model inside the package: seconds, and far too few steps to learn anything."""

import mitune

model = mitune.load("shapes")  # or a diffusers folder, a Hub id, a loaded pipeline
short = mitune.SamplerConfig(steps=4)  # leave it out for real pictures
prompts = mitune.read_prompts("shapes", limit=3)  # or a file, or a list of texts
candidates = model.draw(prompts, candidates=3, scores=["contrast", "elbo"], sampler=short)
training = candidates.select(by="z(contrast)+z(elbo)", k=1, losers=1)
tuned = model.train(training, mitune.TrainConfig(objective="nft", steps=3, batch_size=3))
held_out = mitune.read_prompts("shapes", limit=3, held_out=True)
print(tuned.evaluate(held_out, scores=["oracle"], candidates=2, sampler=short))
tuned.save_adapter("adapter")  # pipeline.load_lora_weights("adapter") of diffusers reads it
