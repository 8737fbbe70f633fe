"""How users draw from a class-conditional `UNet2DModel`: no pipeline of diffusers hands such a network its label.

They call the network in a loop over the timesteps of the checkpoint's scheduler, as DDPMPipeline does without labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invmm_gate.models.adapters.scheduler_steps import descend

DIT: Final = "DiTTransformer2DModel"


def classes_of_network(network: nn.Module) -> int:
    """How many classes a network of diffusers is told; 0 where it is told none."""
    config: Any = network.config
    if type(network).__name__ == DIT:
        return int(config.num_embeds_ada_norm)
    return int(getattr(config, "num_class_embeds", None) or 0) if type(network).__name__ == "UNet2DModel" else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """What a pipeline of diffusers gives back."""

    images: NDArray[np.float32]
    """(row, height, width, channel) in [0, 1]."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class SchedulerLoopWithLabels:
    """Called as a pipeline is: labels in, images out."""

    pipeline: Any
    """Diffusers' pipeline around network and scheduler, which could not draw with the network by itself."""

    @property
    def scheduler(self) -> Any:
        """The scheduler, as the pipeline has it: DDIMPipeline makes a DDIMScheduler of every other."""
        return self.pipeline.scheduler

    @property
    def components(self) -> dict[str, Any]:
        """Network and scheduler."""
        components: dict[str, Any] = self.pipeline.components
        return components

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        device: torch.device = self.pipeline.device
        return device

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        *,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        guidance_scale: float = 1.0,
        output_type: str = "np",
    ) -> Drawn:
        """One image for each label. `generator` draws the first noise, and what the scheduler adds at its steps."""
        del guidance_scale, output_type  # such a network has no guidance, and images are always "np"
        labels = torch.tensor(list(class_labels), device=self.device)
        streams = generator if isinstance(generator, list) else [generator or torch.default_generator] * len(labels)

        def predict(x_t: Tensor, time: Tensor, rows: slice) -> Tensor:
            output: Tensor = self.pipeline.unet(x_t, time, class_labels=labels[rows], return_dict=False)[0]
            return output

        x_t = descend(self, predict, self._noise(len(labels), streams), streams, steps=num_inference_steps)
        images = (x_t / 2 + 0.5).clamp(0, 1)
        return Drawn(images=images.cpu().permute(0, 2, 3, 1).float().numpy())

    def _noise(self, rows: int, streams: list[torch.Generator]) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        config = self.pipeline.unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        noise: Tensor = randn_tensor((rows, config.in_channels, height, width), generator=streams, device=self.device)
        return noise


def with_labels(pipeline: Any) -> Any:
    """A pipeline around a class-conditional `UNet2DModel` as the loop that can draw with it; any other as it is."""
    network = getattr(pipeline, "unet", None)
    return SchedulerLoopWithLabels(pipeline) if network is not None and classes_of_network(network) else pipeline
