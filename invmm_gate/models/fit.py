"""Whether the parts of a checkpoint fit one another; found out from configurations and sizes alone."""

from invmm_gate.errors import ModelError
from invmm_gate.models.configs import KLConfig, NetworkConfig, Size, UNetConfig, VQConfig
from invmm_gate.models.files import CheckpointFiles
from invmm_gate.models.layout import Component, Layout
from invmm_gate.models.weight_files import header_of

MIN_BYTES_PER_WEIGHT = 2
"""float16; narrower weights are quantised and not scored."""


def image_size(layout: Layout) -> tuple[int, int]:
    """(height, width) of the images that the model makes. Raises ModelError where sizes contradict each other."""
    unet, autoencoder = layout.unet_config, layout.autoencoder_config
    height, width = _pair(unet.sample_size)
    if autoencoder is None:
        return height, width
    factor = 2 ** (len(autoencoder.block_out_channels) - 1)
    image = height * factor, width * factor
    if _pair(autoencoder.sample_size) != image:
        raise ModelError(
            f"the latent of {height}x{width} decodes to {image[0]}x{image[1]}, but the autoencoder's sample_size "
            f"is {autoencoder.sample_size}",
            expected=f"sample_size = latent size x {factor}",
            do="correct sample_size in unet/config.json or vqvae/config.json",
        )
    return image


def check_fit(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for sizes, channels, timesteps or weights that do not belong together."""
    unet, autoencoder = layout.unet_config, layout.autoencoder_config
    image_size(layout)
    _check_unet(unet, timesteps=layout.scheduler.num_train_timesteps)
    _check_channels(unet, autoencoder)
    for component in (layout.unet, layout.autoencoder):
        if component is not None:
            _check_size(files, component)
            _check_shards(files, component)


def _pair(size: Size | None) -> tuple[int, int]:
    if size is None:
        raise ModelError(
            "the network has no sample_size", expected="the side of its images", do="add it to config.json"
        )
    return (size, size) if isinstance(size, int) else size


def _check_unet(config: UNetConfig, *, timesteps: int) -> None:
    levels = len(config.block_out_channels)
    if not levels == len(config.down_block_types) == len(config.up_block_types):
        raise ModelError(
            f"the network has {levels} block_out_channels, {len(config.down_block_types)} down and "
            f"{len(config.up_block_types)} up blocks",
            expected="as many of each",
        )
    step = 2 ** (levels - 1)
    if any(side % step for side in _pair(config.sample_size)):
        raise ModelError(f"sample_size {config.sample_size} is not a multiple of {step}", expected="whole levels")
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise ModelError(
            f"the network has {config.in_channels} input and {config.out_channels} output channels",
            expected="as many, or twice as many where it learned the variance",
        )
    if config.time_embedding_type == "learned" and (config.num_train_timesteps or 0) < timesteps:
        raise ModelError(
            f"the network knows {config.num_train_timesteps} timesteps, the scheduler {timesteps}",
            expected="at least as many",
        )


def _check_channels(unet: UNetConfig, autoencoder: VQConfig | KLConfig | None) -> None:
    if autoencoder is None and unet.in_channels not in (1, 3):
        raise ModelError(
            f"the network works on {unet.in_channels} channels", expected="grey or RGB pixels, or an autoencoder"
        )
    if autoencoder is not None and unet.in_channels != autoencoder.width:
        raise ModelError(
            f"the autoencoder's latent has {autoencoder.width} channels, the network takes {unet.in_channels}",
            expected="parts of one checkpoint",
        )


def fewest_weights(config: NetworkConfig) -> int:
    """A lower bound: each residual block has at least one 3x3 convolution from its width to its width."""
    blocks = 2 * config.layers_per_block + 1
    return sum(9 * width * width * blocks for width in config.block_out_channels)


def _check_size(files: CheckpointFiles, component: Component) -> None:
    size = sum(files.files[path].size for path in component.weights)
    fewest = fewest_weights(component.config)
    if fewest * MIN_BYTES_PER_WEIGHT > size:
        raise ModelError(
            f"{component.name}/config.json describes at least {fewest:,} weights, but {component.weights[0]!r} has "
            f"{size:,} bytes",
            expected="the configuration of these weights",
        )


def _check_shards(files: CheckpointFiles, component: Component) -> None:
    """Each tensor lies in the shard that the index names, and no shard holds another one."""
    if component.shards is None:
        return
    held: dict[str, str] = {}
    for path in component.weights:
        for key in header_of(files, path).tensors:
            _refuse(key in held, f"tensor {key!r} is in {held.get(key)!r} and in {path!r}")
            held[key] = path
    wrong = sorted(key for key in held.keys() | component.shards.keys() if held.get(key) != component.shards.get(key))
    _refuse(bool(wrong), f"the shards and their index disagree about {', '.join(map(repr, wrong[:10]))}")


def _refuse(breach: bool, message: str) -> None:
    if breach:
        raise ModelError(message, expected="one file for each tensor", do="save the checkpoint again")
