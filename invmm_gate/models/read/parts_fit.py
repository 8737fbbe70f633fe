"""Whether the parts of a checkpoint fit one another; found out from configurations and sizes alone."""

import math
import operator

from invmm_gate.core.errors import ModelError
from invmm_gate.core.settings import Family
from invmm_gate.models.read.autoencoder_configs import (
    AutoencoderConfigs,
    DCConfig,
    Flux2AutoencoderConfig,
    KLConfig,
    QwenImageAutoencoderConfig,
)
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.checkpoint_layout import Layout, autoencoder_of, denoiser_of
from invmm_gate.models.read.components import Component
from invmm_gate.models.read.image_sizes import (
    LDM,
    LDM_WITH_PROMPTS,
    OwnSize,
    downscaling,
    image_size,
    latent_shape,
    levels,
    pair,
    tokens_of,
)
from invmm_gate.models.read.network_configs import (
    DenoiserConfig,
    EncoderConfig,
    NetworkConfig,
    UNetConditionConfig,
    UNetConfig,
    classes_of,
)
from invmm_gate.models.read.pipelines import FAMILIES, TEXT_FAMILIES
from invmm_gate.models.read.text_configs import CHAT_LENGTH, LUMINA_LENGTH
from invmm_gate.models.read.text_fit import check_text_fit
from invmm_gate.models.read.transformer_configs import (
    TOLD_SIZE,
    AuraFlowConfig,
    ChromaConfig,
    DiTConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    SD3Config,
    TransformerConfig,
    Unshifted,
    ZImageConfig,
)
from invmm_gate.models.read.weight_files import header_of

MIN_BYTES_PER_WEIGHT = 2
"""float16; narrower weights are quantised and not scored."""

SANA_SIDES = (16, 32, 64, 128)
"""Sides of a latent for which SanaPipeline has a table of sizes, with a square of 32 times the side in each."""
PIXART_ALPHA = "PixArtAlphaPipeline"
QUANTISED = frozenset({"F8_E5M2", "F8_E4M3", "F8_E8M0", "I8", "U8"})
"""Types of tensors that hold weights in eight bits or, packed, in fewer."""


def family_of(layout: Layout) -> Family:
    """The family of a checkpoint's model: known before anything is loaded."""
    family = FAMILIES[layout.pipeline]
    return "class_pixel" if family == "pixel" and classes_of(denoiser_of(layout)) else family


def check_fit(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for sizes, channels, timesteps or weights that do not belong together."""
    denoiser = denoiser_of(layout)
    size = None if isinstance(denoiser, OwnSize) else denoiser.sample_size
    if layout.pipeline in (LDM, LDM_WITH_PROMPTS) and not isinstance(size, int):
        raise ModelError(f"{layout.pipeline} with sample_size {size}", expected="one side, a number")
    image_size(layout)
    _check_network(denoiser, layout)
    if isinstance(denoiser, UNetConfig):
        _check_time(denoiser, timesteps=layout.scheduler.num_train_timesteps)
    _check_channels(denoiser, autoencoder_of(layout))
    _check_shift(layout, autoencoder_of(layout))
    if layout.pipeline in TEXT_FAMILIES:
        check_text_fit(layout)
    for component in layout.components.values():
        _check_widths(files, component)
        _check_size(files, component)
        _check_shards(files, component)


def _check_network(denoiser: DenoiserConfig, layout: Layout) -> None:
    if isinstance(denoiser, SD3Config):
        _check_sd3(denoiser)
    elif isinstance(denoiser, FluxConfig | ChromaConfig | Flux2Config | QwenImageConfig):
        _check_flux(denoiser)
    elif isinstance(denoiser, DiTConfig):
        _check_dit(denoiser)
    elif isinstance(denoiser, ZImageConfig | Lumina2Config):
        _check_placed(denoiser, layout)
    elif isinstance(denoiser, SanaConfig):
        _check_sana(denoiser, autoencoder_of(layout))
    elif isinstance(denoiser, PixArtConfig):
        _check_pixart(denoiser, layout)
    elif isinstance(denoiser, AuraFlowConfig):
        _check_aura_flow(denoiser, layout)
    else:
        _check_unet(denoiser)


def _check_unet(config: UNetConfig | UNetConditionConfig) -> None:
    levels = len(config.block_out_channels)
    if not levels == len(config.down_block_types) == len(config.up_block_types):
        raise ModelError(
            f"the network has {levels} block_out_channels, {len(config.down_block_types)} down and "
            f"{len(config.up_block_types)} up blocks",
            expected="as many of each",
        )
    step = 2 ** (levels - 1)
    if any(side % step for side in pair(config.sample_size)):
        raise ModelError(f"sample_size {config.sample_size} is not a multiple of {step}", expected="whole levels")
    _check_output(config)


def _check_sd3(config: SD3Config) -> None:
    patches = config.sample_size // config.patch_size
    if config.sample_size % config.patch_size or patches > config.pos_embed_max_size:
        raise ModelError(
            f"the transformer has positions for {config.pos_embed_max_size} patches of {config.patch_size} along a "
            f"side, its sample_size is {config.sample_size}",
            expected="whole patches, with a position each",
        )
    if config.width != config.caption_projection_dim:
        raise _other_captions(config)
    _check_output(config)


def _check_aura_flow(config: AuraFlowConfig, layout: Layout) -> None:
    """Beyond its positions it would take some twice, without a word."""
    _, height, width = latent_shape(layout)
    patches = max(height, width) // config.patch_size
    if height % config.patch_size or width % config.patch_size or patches > config.places:
        raise ModelError(
            f"the transformer has positions for {config.places} patches of {config.patch_size} along a side, the "
            f"latents of an image of {config.image_size[0]} pixels have {max(height, width)} places",
            expected="whole patches, with a position each",
        )
    if config.width != config.caption_projection_dim:
        raise _other_captions(config)
    _check_output(config)


def _other_captions(config: SD3Config | AuraFlowConfig) -> ModelError:
    return ModelError(
        f"the transformer's tokens have {config.width} channels, its captions {config.caption_projection_dim}",
        expected="as many",
    )


def _check_dit(config: DiTConfig) -> None:
    if config.sample_size % config.patch_size:
        raise ModelError(
            f"sample_size {config.sample_size} is not a multiple of patch_size {config.patch_size}",
            expected="whole patches",
        )
    _check_halved(config, "DiTPipeline")


def _check_halved(config: DiTConfig | PixArtConfig, pipeline: str) -> None:
    if config.out_channels is None:
        raise ModelError(
            f"the transformer states no out_channels, which {pipeline} divides by 2",
            expected="as many as in_channels, or twice as many where it learned the variance",
            do="add it to transformer/config.json",
        )
    _check_output(config)


def _check_pixart(config: PixArtConfig, layout: Layout) -> None:
    """At these sizes alone its pipeline draws the image that is asked for, and resizes nothing."""
    autoencoder, alpha = autoencoder_of(layout), layout.pipeline == PIXART_ALPHA
    if autoencoder is not None and downscaling(autoencoder) != 8:
        raise ModelError(
            f"the autoencoder halves a side {len(levels(autoencoder)) - 1} times",
            expected=f"3 times, as {layout.pipeline} asks for an image of 8 times the latent",
        )
    if config.sample_size % config.patch_size or (alpha and config.sample_size > TOLD_SIZE):
        raise ModelError(
            f"{layout.pipeline} with sample_size {config.sample_size} and patch_size {config.patch_size}",
            expected=f"whole patches, and a sample_size of 32, 64{', 128 or 256' if not alpha else ' or 128'}",
        )
    if config.told_the_size and not (alpha and config.sample_size == TOLD_SIZE and config.width % 3 == 0):
        raise ModelError(
            f"the transformer ({config.width} channels) is to be told the size of the image, which "
            f"{layout.pipeline} does not tell at sample_size {config.sample_size}",
            expected=f"use_additional_conditions false, or {PIXART_ALPHA} at 128 with a multiple of 3 channels",
            do="correct transformer/config.json",
        )
    _check_halved(config, layout.pipeline)


def _check_flux(config: FluxConfig | ChromaConfig | Flux2Config | QwenImageConfig) -> None:
    quarter = config.attention_head_dim / 4
    if isinstance(config, Flux2Config) and set(config.axes_dims_rope) != {quarter}:
        raise ModelError(
            f"the transformer turns {config.axes_dims_rope} of {config.attention_head_dim} values of a head",
            expected="a quarter for each axis, as FLUX.2 has it",
        )
    if sum(config.axes_dims_rope) != config.attention_head_dim or any(size % 2 for size in config.axes_dims_rope):
        raise ModelError(
            f"the transformer turns {config.axes_dims_rope} of {config.attention_head_dim} values of a head",
            expected="axes_dims_rope of even numbers whose sum is attention_head_dim",
        )
    _check_output(config)


def _check_placed(config: ZImageConfig | Lumina2Config, layout: Layout) -> None:
    """The first axis counts the prompt's tokens and one or two more, the others the rows and columns of patches."""
    if isinstance(config, ZImageConfig):
        width, heads, turned, side = config.dim, config.n_heads, config.axes_dims, math.isqrt(tokens_of(layout))
        needed = CHAT_LENGTH + 2, side, side
    else:
        _check_lumina_2(config, layout)
        width, heads, turned = config.hidden_size, config.num_attention_heads, config.axes_dim_rope
        needed = LUMINA_LENGTH + 1, *(config.sample_size // config.patch_size,) * 2
    if width % heads or sum(turned) != width // heads:
        raise ModelError(
            f"the transformer turns {turned} of {width / heads:g} values of a head",
            expected="numbers whose sum is the width of a head, a whole number",
        )
    if any(size % 2 for size in turned) or any(map(operator.lt, config.axes_lens, needed)):
        raise ModelError(
            f"the transformer has positions for {config.axes_lens} tokens, rows and columns, an image needs {needed}",
            expected="positions for each, and an even number of values for each axis",
        )


def _check_lumina_2(config: Lumina2Config, layout: Layout) -> None:
    """Its pipeline divides an image by 8 and the time by the scheduler's timesteps, whatever its parts do."""
    autoencoder = autoencoder_of(layout)
    if autoencoder is not None and downscaling(autoencoder) != 8:
        raise ModelError(
            f"the autoencoder halves a side {len(levels(autoencoder)) - 1} times",
            expected="3 times, as Lumina2Pipeline asks for an image of 8 times the latent",
        )
    if config.sample_size % config.patch_size or config.num_attention_heads % config.num_kv_heads:
        raise ModelError(
            f"the transformer has patches of {config.patch_size} in sides of {config.sample_size}, and "
            f"{config.num_kv_heads} keys and values for {config.num_attention_heads} heads",
            expected="whole patches, and whole groups of heads",
        )
    if layout.scheduler.num_train_timesteps != 1000:
        raise ModelError(
            f"the scheduler has {layout.scheduler.num_train_timesteps} timesteps", expected="1000, as every release has"
        )
    _check_output(config)


def _check_sana(config: SanaConfig, autoencoder: AutoencoderConfigs | None) -> None:
    """Its pipeline draws at sizes of a table, and resizes what was asked for at another one."""
    if autoencoder is not None and downscaling(autoencoder) != 32:
        raise ModelError(
            f"the autoencoder halves a side {len(levels(autoencoder)) - 1} times",
            expected="5 times: SanaPipeline draws at sizes of which a latent is a 32nd",
        )
    if config.sample_size not in SANA_SIDES or config.sample_size % config.patch_size:
        raise ModelError(
            f"the transformer has patches of {config.patch_size} in sides of {config.sample_size}",
            expected=f"sides of {', '.join(map(str, SANA_SIDES))}, which SanaPipeline knows, and whole patches",
        )
    if config.cross_attention_dim != config.width:
        raise ModelError(
            f"the transformer's tokens have {config.width} channels, its captions {config.cross_attention_dim}",
            expected="as many",
        )
    _check_output(config)


def _check_output(config: DenoiserConfig) -> None:
    made = config.in_channels if config.out_channels is None else config.out_channels
    made *= 4 if isinstance(config, QwenImageConfig) else 1  # it counts those of a latent, of which a token has 2 x 2
    learned_variance = isinstance(config, UNetConfig | DiTConfig | PixArtConfig) and made == 2 * config.in_channels
    if made != config.in_channels and not learned_variance:
        raise ModelError(
            f"the network has {config.in_channels} input and {made} output channels",
            expected="as many, or, without prompts and in PixArt, twice as many where it learned the variance",
        )


def _check_time(config: UNetConfig, *, timesteps: int) -> None:
    if config.time_embedding_type == "learned" and (config.num_train_timesteps or 0) < timesteps:
        raise ModelError(
            f"the network knows {config.num_train_timesteps} timesteps, the scheduler {timesteps}",
            expected="at least as many",
        )


def _check_channels(denoiser: DenoiserConfig, autoencoder: AutoencoderConfigs | None) -> None:
    if autoencoder is None and denoiser.in_channels not in (1, 3):
        raise ModelError(
            f"the network works on {denoiser.in_channels} channels", expected="grey or RGB pixels, or an autoencoder"
        )
    if autoencoder is not None and denoiser.latent_channels != autoencoder.width:
        raise ModelError(
            f"the autoencoder's latent has {autoencoder.width} channels, the network takes {denoiser.latent_channels}",
            expected="parts of one checkpoint",
        )


def _check_shift(layout: Layout, autoencoder: AutoencoderConfigs | None) -> None:
    """Most pipelines of transformers add `shift_factor` to every latent, and need one; the others ignore it."""
    stated = autoencoder.shift_factor if isinstance(autoencoder, KLConfig) else None
    if isinstance(autoencoder, Flux2AutoencoderConfig | QwenImageAutoencoderConfig | DCConfig):
        return  # they bring statistics of their own, or have no shift
    denoiser = denoiser_of(layout)
    if isinstance(denoiser, TransformerConfig) and not isinstance(denoiser, Unshifted):
        if stated is None:
            raise ModelError(
                f"the autoencoder states no shift_factor, which {layout.pipeline} adds to every latent",
                expected="a number, 0 where there is no shift",
                do="add it to vae/config.json",
            )
    elif stated:
        raise ModelError(
            f"the autoencoder states shift_factor {stated:g}, which {layout.pipeline} ignores when it generates",
            expected="null or 0, so that what is scored is what the pipeline makes",
            do="correct the autoencoder's config.json",
        )


def fewest_weights(config: NetworkConfig) -> int:
    """A lower bound: each residual block has at least one 3x3 convolution from its width to its width."""
    if isinstance(config, EncoderConfig | QwenImageAutoencoderConfig | DCConfig):
        return config.fewest_weights
    if isinstance(config, Lumina2Config):
        return 2 * config.num_layers * config.width**2  # queries and outputs
    if isinstance(config, SanaConfig):
        return 4 * config.num_layers * config.width**2  # attention among the image's tokens
    if isinstance(config, ZImageConfig):
        return 12 * config.n_layers * config.dim**2  # as below
    if isinstance(config, AuraFlowConfig):
        return 12 * (config.num_mmdit_layers + config.num_single_dit_layers) * config.width**2  # as below
    if isinstance(config, FluxConfig | ChromaConfig | Flux2Config):
        return 12 * (config.num_layers + config.num_single_layers) * config.width**2  # as below; text has its own
    if isinstance(config, SD3Config | QwenImageConfig | DiTConfig | PixArtConfig):
        return 12 * config.num_layers * config.width**2  # attention and MLP of the image's tokens
    layers = config.layers_per_block
    per_level = (layers,) * len(config.block_out_channels) if isinstance(layers, int) else layers
    pairs = zip(config.block_out_channels, per_level, strict=False)
    return sum(9 * width * width * (2 * count + 1) for width, count in pairs)


def _check_size(files: CheckpointFiles, component: Component) -> None:
    for path in component.weights:
        if path in files.faults:
            raise files.faults[path]
    size = sum(files.files[path].size for path in component.weights)
    fewest = fewest_weights(component.config)
    if fewest * MIN_BYTES_PER_WEIGHT > size:
        raise ModelError(
            f"{component.config_file} describes at least {fewest:,} weights, but {component.weights[0]!r} has "
            f"{size:,} bytes",
            expected="the configuration of these weights",
        )


def _check_widths(files: CheckpointFiles, component: Component) -> None:
    """Of integers a network has the positions of its tokens; weights in 8 bits are quantised."""
    for path in component.weights:
        if path.endswith(".safetensors"):
            narrow = sorted({entry.dtype for entry in header_of(files, path).tensors.values()} & QUANTISED)
            if narrow:
                raise ModelError(
                    f"{path!r} holds quantised weights ({', '.join(narrow)})",
                    expected="float16, bfloat16 or float32: a verdict holds for the weights that are scored",
                    do="check the checkpoint before it is quantised, or save it dequantised",
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
