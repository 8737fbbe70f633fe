"""The parts of one inspected checkpoint for a loader: networks, tokenizers and the noise schedule."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.adapters.released_pipeline import refuse_other_process, released_pipeline
from invmm_gate.models.load.lora import fuse_loras
from invmm_gate.models.load.noise_schedule import alpha_bar_of
from invmm_gate.models.load.tokenizers import build_tokenizer
from invmm_gate.models.load.weights import fill
from invmm_gate.models.networks import on_meta
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.layout import Layout
from invmm_gate.models.read.scheduler_config import FlowConfig


@dataclass(frozen=True)
class Source:
    """The verified files of a checkpoint and what they are for."""

    files: CheckpointFiles
    pickles: frozenset[str]
    device: torch.device
    layout: Layout

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """All components, with every LoRA fused into them; frozen, on the device."""
        filled = {name: self._filled(name) for name in self.layout.components}
        fuse_loras(self.files, self.layout.pipeline, filled)
        return {name: self._placed(network) for name, network in filled.items()}

    @cached_property
    def tokenizers(self) -> dict[str, Any]:
        """All tokenizers."""
        return {name: build_tokenizer(files) for name, files in self.layout.tokenizers.items()}

    @cached_property
    def pipeline(self) -> Any:
        """The released pipeline around these very parts. Raises ModelError where its process is another one."""
        pipeline = released_pipeline(self.layout, self.networks, self.tokenizers)
        refuse_other_process(pipeline.scheduler, self.layout.scheduler, self.schedule)
        return pipeline

    @cached_property
    def schedule(self) -> VariancePreserving | FlowMatching:
        """The noise schedule that the network was trained with."""
        config = self.layout.scheduler
        if isinstance(config, FlowConfig):
            return FlowMatching(shift=config.shift, timesteps=config.num_train_timesteps, device=self.device)
        return VariancePreserving(alpha_bar_of(config).to(self.device))

    def _filled(self, name: str) -> nn.Module:
        component = self.layout.components[name]
        return fill(on_meta(component), self.files, component, pickles=self.pickles)

    def _placed(self, network: nn.Module) -> nn.Module:
        # Channels last: a tenth faster on a CPU (benchmarks/RESULTS.md), and what tensor cores want.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
