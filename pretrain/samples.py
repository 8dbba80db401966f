"""Batches of noise, cut as the loader of a method cuts images, and a step without a trainer."""

import numpy as np
import torch
from detectron2.config import CfgNode

from pretrain.batch import Batch, StepOutput
from pretrain.methods import Method, method_class

# Height and width of COCO's usual image.
_SIZE = (480, 640)


def noise_batch(cfg: CfgNode, images: int, *, seed: int = 0) -> Batch:
    """Return views of noise, in float32, with crops and extras drawn as for images of 640 × 480."""
    kind = method_class(cfg)
    crops, makers = kind.crops(cfg), kind.loader_extras(cfg)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    drawn = [crops.draw(place, *_SIZE, rng) for place in range(images)]
    boxes = np.stack([[crop.as_array() for crop in item] for item in drawn], axis=1)
    geometry = torch.tensor(boxes)
    extras = {
        name: torch.tensor(np.stack([make(i, _SIZE, item, rng) for i, item in enumerate(drawn)]))
        for name, make in makers.items()
    }
    return Batch(
        views=[
            torch.randn(images, 3, group.size, group.size, generator=generator)
            for group in crops.groups
            for _ in range(group.count)
        ],
        rectangles=geometry[..., :4],
        flips=geometry[..., 4].bool(),
        image_sizes=torch.tensor([_SIZE] * images),
        index=torch.arange(images),
        extras=extras,
    )


def take_step(
    method: Method, optimizer: torch.optim.Optimizer, batch: Batch, iteration: int
) -> StepOutput:
    """Take a step in one process as the trainer does, and return what the method has computed."""
    method.before_step(iteration)
    output = method(batch)
    # A caller's mixed precision is for the forward pass alone.
    with torch.autocast(batch.views[0].device.type, enabled=False):
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(output.weighted().values())).sum().backward()
        method.before_optimizer_step()
        optimizer.step()
        method.after_optimizer_step()
        method.enqueue(output.keys)
    return output
