"""Tiny text-to-image pipelines with random weights, built from configurations in memory."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMTextToImagePipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    LlamaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from invmm_gate.core.settings import Family
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.adapters.chats import CHATS
from invmm_gate.models.adapters.latent_statistics import BatchNormOfPatches, LatentStatistics, OneScale, PerChannel
from invmm_gate.models.adapters.prompt_encoders import prompt_encoder_of
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.load.load import flow_of, solved_flow_of
from invmm_gate.models.read.scheduler_config import FLOW_SOLVERS, FlowConfig, FlowSolverConfig, read_scheduler

CPU = torch.device("cpu")
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = (
    ("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"),
    ("o", "f</w>"), ("r", "e"), ("re", "d</w>"), ("i", "n"), ("in", "g</w>"), ("p", "a"), ("pa", "in"),
)  # fmt: skip
PROMPTS = ("a red cat and the dog", "painting of a house!")
NAMES = (
    "sd1",
    "sd2",
    "sdxl",
    "sd3",
    "sd3_t5",
    "ldm",
    "lcm",
    "flux",
    "flux_schnell",
    "z_image",
    "klein",
    "qwen_image",
    "chroma",
    "lumina",
    "sana",
    "aura_flow",
    "pixart",
    "pixart_sigma",
)
SIZE = 16
"""Side of the images; the latents are half as large."""
LARGE = 64
"""Side of the images where latents are an eighth: the pipelines of Lumina 2 and PixArt want that."""
LARGEST = 512
"""Side of the images of Sana, whose pipeline knows none that is smaller, and wants latents of a 32nd."""
SIDES = {"lumina": LARGE, "aura_flow": LARGE, "pixart": LARGE, "pixart_sigma": LARGE, "sana": LARGEST}
LATENTS = {"klein": (16, SIZE // 4, SIZE // 4), "sana": (4, LARGEST // 32, LARGEST // 32)}
"""Where they are not as for most."""


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A diffusers pipeline, and the gate's model of the same modules."""

    name: str
    pipeline: Any
    model: TextToImageModel


def frozen(module: Any, scale: float = 1.0) -> Any:
    """In eval mode; matrices times `scale`, so that tiny random networks do react to their prompts."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return module.eval().requires_grad_(False)


def byte_pairs(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """CLIP's order of ids: bytes, bytes that end a word, merges, start and end."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in CLIP's order: printable Latin-1 first."""
    alphabet = set(ByteLevel.alphabet())
    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    return printable + sorted(alphabet - set(printable))


def clip_tokenizer(
    *, merges: Sequence[tuple[str, str]] = MERGES, length: int = 16, pad_token: str = END
) -> CLIPTokenizer:
    """Through files, as the constructor's arguments differ between versions of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "vocab.json").write_text(json.dumps(byte_pairs(merges)))
        (root / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
        (root / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": length}))
        return CLIPTokenizer.from_pretrained(root)


T5_WORDS = ("▁a", "▁red", "▁cat", "▁and", "▁the", "▁dog", "▁of")


def t5_tokenizer(*, words: Sequence[str] = T5_WORDS) -> T5Tokenizer:
    letters = [chr(code) for code in range(33, 127)]
    known = [*letters, *words]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((piece, -3.0) for piece in known)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def bert_tokenizer() -> BertTokenizer:
    letters = [chr(code) for code in (33, *range(97, 123))]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "red", *letters, *(f"##{item}" for item in letters)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(words))
        return BertTokenizer(str(Path(folder) / "vocab.txt"))


def clip_encoder(
    tokenizer: CLIPTokenizer, *, seed: int, width: int = 16, projection: int | None = None, legacy: bool = False
) -> Any:
    """`legacy` pools at the largest id, as the configurations of SD 1 and SD XL have it (`eos_token_id` 2)."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=2 if legacy else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return frozen(CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config), scale=4.0)


def unet(*, context: int, **changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(10)
    settings = {
        "sample_size": SIZE // 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": context,
    }
    return frozen(UNet2DConditionModel(**{**settings, **changes}), scale=1.5)


def autoencoder(
    *, scaling_factor: float = 0.18215, shift_factor: float | None = None, widths: tuple[int, ...] = (8, 16)
) -> AutoencoderKL:
    torch.manual_seed(11)
    return frozen(
        AutoencoderKL(
            block_out_channels=widths,
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            latent_channels=4,
            sample_size=SIZE,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            force_upcast=False,
        )
    )


def ddim(prediction_type: str = "epsilon") -> DDIMScheduler:
    """The authors' sampler in diffusers' words: trailing grid, last alpha 1, no clipping."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        steps_offset=1,
        set_alpha_to_one=True,
        clip_sample=False,
    )


def _schedule(pipeline: Any, family: Family) -> VariancePreserving | FlowMatching:
    scheduler = pipeline.scheduler
    if family not in ("stable_diffusion_3", "flow"):
        return VariancePreserving(scheduler.alphas_cumprod)
    if isinstance(pipeline, SanaPipeline):
        solver = read_scheduler(json.loads(scheduler.to_json_string()), "scheduler", allowed=FLOW_SOLVERS)
        assert isinstance(solver, FlowSolverConfig)
        return solved_flow_of(solver, CPU)
    config = FlowConfig(**{"scheduler": type(scheduler).__name__, **without_private(scheduler.config)})
    tokens = 4 if isinstance(pipeline, Lumina2Pipeline) else (SIZE // 4) ** 2
    return flow_of(config, type(pipeline).__name__, tokens, CPU)


def without_private(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that are no bookkeeping of diffusers."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _tiny(name: str, pipeline: Any, *, family: Family) -> Tiny:
    coder = pipeline.vqvae if name == "ldm" else pipeline.vae
    flow = family in ("stable_diffusion_3", "flow")
    pipeline.set_progress_bar_config(disable=True)
    model = TextToImageModel(
        network=pipeline.transformer if "transformer" in pipeline.components else pipeline.unet,
        autoencoder=coder,
        prompts=prompt_encoder_of(type(pipeline).__name__, pipeline.components, CPU),
        family=family,
        statistics=_statistics(name, coder),
        schedule=_schedule(pipeline, family),
        prediction_type="velocity" if flow else pipeline.scheduler.config.prediction_type,
        latent_shape=LATENTS.get(name, (4, SIZE // 2, SIZE // 2)),
        image_size=(SIDES.get(name, SIZE),) * 2,
        device=CPU,
        pipeline_guides=not getattr(pipeline.config, "is_distilled", False),
        zero_unconditional=getattr(pipeline.config, "force_zeros_for_empty_prompt", False),
    )
    return Tiny(name=name, pipeline=pipeline, model=model)


def _statistics(name: str, coder: Any) -> LatentStatistics:
    if name == "klein":
        return BatchNormOfPatches(coder)
    if name == "qwen_image":
        return PerChannel(coder.config.latents_mean, coder.config.latents_std)
    return OneScale(coder.config.scaling_factor, getattr(coder.config, "shift_factor", None) or 0.0)


def stable_diffusion(*, version: Literal[1, 2] = 1, length: int = 16, **network: Any) -> Tiny:
    """SD 1: epsilon, padded with the end token. SD 2: v_prediction, padded with "!"."""
    tokenizer = clip_tokenizer(length=length, pad_token=END if version == 1 else "!")
    encoder = clip_encoder(tokenizer, seed=1, legacy=version == 1)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet(context=16, **network),
        scheduler=ddim("epsilon" if version == 1 else "v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _tiny(f"sd{version}", pipeline, family="stable_diffusion")


def latent_consistency() -> Tiny:
    """Distilled Stable Diffusion 1, told the guidance scale; its own scheduler adds noise at each step but the last."""
    tokenizer = clip_tokenizer()
    pipeline = LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(tokenizer, seed=1, legacy=True),
        tokenizer=tokenizer,
        unet=unet(context=16, time_cond_proj_dim=6),
        scheduler=LCMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    return _tiny("lcm", pipeline, family="stable_diffusion")


def stable_diffusion_xl(*, zero_unconditional: bool = True, legacy: bool = True) -> Tiny:
    tokenizers = clip_tokenizer(), clip_tokenizer(pad_token="!")
    encoders = (
        clip_encoder(tokenizers[0], seed=1, legacy=legacy),
        clip_encoder(tokenizers[1], seed=2, width=20, projection=12, legacy=legacy),
    )
    network = unet(
        context=36,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 6 * 4,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=network,
        scheduler=ddim(),
        force_zeros_for_empty_prompt=zero_unconditional,
        add_watermarker=False,
    )
    return _tiny("sdxl", pipeline, family="stable_diffusion")


def stable_diffusion_3(*, t5: bool = False) -> Tiny:
    tokenizers = clip_tokenizer(), clip_tokenizer(pad_token="!")
    encoders = (
        clip_encoder(tokenizers[0], seed=1, projection=12, legacy=True),
        clip_encoder(tokenizers[1], seed=2, width=20, projection=10),
    )
    tokenizer_3, encoder_3 = (t5_tokenizer(), _t5_encoder()) if t5 else (None, None)
    torch.manual_seed(12)
    network = SD3Transformer2DModel(
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=40,
        caption_projection_dim=16,
        pooled_projection_dim=22,
        pos_embed_max_size=8,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=encoders[0],
        tokenizer=tokenizers[0],
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizers[1],
        text_encoder_3=encoder_3,
        tokenizer_3=tokenizer_3,
    )
    return _tiny("sd3_t5" if t5 else "sd3", pipeline, family="stable_diffusion_3")


def flux(*, guidance: bool = True) -> Tiny:
    """FLUX.1: dev, which is told the guidance scale and shifts with the size; schnell, which does neither."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(13)
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = FluxPipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_encoder(tokenizer, seed=1),
        tokenizer=tokenizer,
        text_encoder_2=_t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    return _tiny("flux" if guidance else "flux_schnell", pipeline, family="flow")


def chroma() -> Tiny:
    torch.manual_seed(17)
    network = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=40,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=24,
        approximator_layers=1,
    )
    pipeline = ChromaPipeline(
        transformer=frozen(network, scale=1.25),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    return _tiny("chroma", pipeline, family="flow")


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
"""What the published template makes of one message."""


def qwen_tokenizer() -> Qwen2Tokenizer:
    merges = [
        ("c", "a"), ("ca", "t"), ("r", "e"), ("re", "d"), ("Ġ", "cat"), ("Ġ", "red"), ("e", "r"), ("u", "s"),
        ("us", "er"),
    ]  # fmt: skip
    tokens = [*_byte_letters(), *(left + right for left, right in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=1024,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen_encoder(tokenizer: Qwen2Tokenizer, *, head: bool = False, layers: int = 3) -> Any:
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=head,
    )
    return frozen(Qwen3ForCausalLM(config) if head else Qwen3Model(config), scale=10.0)


def z_image() -> Tiny:
    tokenizer = qwen_tokenizer()
    torch.manual_seed(14)
    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[640, 512, 512],
    )
    for token in (network.x_pad_token, network.cap_pad_token):
        torch.nn.init.normal_(token)
    pipeline = ZImagePipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=qwen_encoder(tokenizer),
        tokenizer=tokenizer,
    )
    return _tiny("z_image", pipeline, family="flow")


def klein(*, distilled: bool = False) -> Tiny:
    """FLUX.2-klein; a batch norm that has seen latents, so that it does something."""
    tokenizer = qwen_tokenizer()
    torch.manual_seed(15)
    network = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 24,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    coder = AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        sample_size=SIZE,
    )
    coder.bn.running_mean.normal_()
    coder.bn.running_var.uniform_(0.5, 2.0)
    pipeline = Flux2KleinPipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=frozen(coder),
        text_encoder=qwen_encoder(tokenizer, head=True, layers=28),
        tokenizer=tokenizer,
        is_distilled=distilled,
    )
    return _tiny("klein", pipeline, family="flow")


def vision_language_encoder(tokenizer: Qwen2Tokenizer) -> Any:
    torch.manual_seed(6)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 2, 2]},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": 2,
            "out_hidden_size": 24,
            "fullatt_block_indexes": [0],
        },
    )
    return frozen(Qwen2_5_VLForConditionalGeneration(config), scale=10.0)


def qwen_image() -> Tiny:
    """Its scheduler shifts with the size, and stretches the levels to the last one."""
    tokenizer = qwen_tokenizer()
    torch.manual_seed(16)
    network = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
    )
    coder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0],
        latents_std=[2.8, 1.4, 0.5, 1.0],
    )
    for block in network.transformer_blocks:  # most of its words are those of the chat, the same for every prompt
        frozen(block.attn.add_k_proj, scale=4.0)
        frozen(block.attn.add_v_proj, scale=4.0)
    pipeline = QwenImagePipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02
        ),
        vae=frozen(coder),
        text_encoder=vision_language_encoder(tokenizer),
        tokenizer=tokenizer,
    )
    return _tiny("qwen_image", pipeline, family="flow")


def gemma_tokenizer(text: str = "") -> GemmaTokenizer:
    """A piece for each letter, for a few words and for those of a text; for all else bytes."""
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("r", "e"), ("re", "d"), ("▁", "red"), ("▁", "a")]
    for word in dict.fromkeys(text.split()):
        merges += [("▁" + word[:place], letter) for place, letter in enumerate(word)]
    merges = list(dict.fromkeys(merges))
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, model_max_length=1024)


def lumina() -> Tiny:
    """Its pipeline takes the channels of a latent for the image's tokens, where it shifts the noise by them."""
    tokenizer = gemma_tokenizer()
    encoder = gemma_encoder(tokenizer)
    torch.manual_seed(18)
    network = Lumina2Transformer2DModel(
        sample_size=LARGE // 8,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cap_feat_dim=24,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 64, 64),
    )
    with torch.no_grad():  # most words are the same for every prompt: attention must tell them apart
        network.layers[0].attn.norm_q.weight.mul_(6.0)
    pipeline = Lumina2Pipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=1),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159, widths=(8, 8, 8, 8)),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
    return _tiny("lumina", pipeline, family="flow")


def sana(**scheduler: Any) -> Tiny:
    """Its network knows no smaller latents than of 16 a side; its scheduler takes two estimates for one step."""
    tokenizer = gemma_tokenizer(CHATS["SanaPipeline"].written(None, ""))
    torch.manual_seed(19)
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=LARGEST // 32,
    )
    with torch.no_grad():
        network.caption_norm.weight.fill_(1.0)
    coder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        encoder_block_out_channels=(4, 4, 4, 4, 8, 8),
        decoder_block_out_channels=(4, 4, 4, 4, 8, 8),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 5 + ((5,),),
        decoder_qkv_multiscales=((),) * 5 + ((5,),),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
    pipeline = SanaPipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, **scheduler
        ),
        vae=frozen(coder),
        text_encoder=gemma_encoder(tokenizer),
        tokenizer=tokenizer,
    )
    return _tiny("sana", pipeline, family="flow")


def gemma_encoder(tokenizer: GemmaTokenizer) -> Any:
    torch.manual_seed(7)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=1024,
    )
    return frozen(Gemma2Model(config), scale=10.0)


def llama_tokenizer() -> LlamaTokenizer:
    """That of AuraFlow: an end token, no start token, bytes for what is no piece, and the start token to pad with."""
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("r", "e"), ("re", "d"), ("▁", "red"), ("▁", "a")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [chr(code) for code in range(33, 127)] + [left + right for left, right in merges]
    return LlamaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        add_bos_token=False,
        add_eos_token=True,
        pad_token="<s>",
        padding_side="right",
        model_max_length=512,
    )


def aura_flow() -> Tiny:
    """A position for each patch of an image of 1024 pixels."""
    tokenizer = llama_tokenizer()
    torch.manual_seed(8)
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    torch.manual_seed(19)
    network = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pos_embed_max_size=64 * 64,
    )
    for block in network.joint_transformer_blocks:  # few of 256 words are no padding: attention must show them
        frozen(block.attn.add_v_proj, scale=20.0)
        frozen(block.norm1.linear, scale=4.0)
    for block in network.single_transformer_blocks:
        frozen(block.norm1.linear, scale=4.0)
    pipeline = AuraFlowPipeline(
        transformer=frozen(network, scale=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=autoencoder(scaling_factor=0.13025, widths=(8, 8, 8, 8)),
        text_encoder=frozen(UMT5EncoderModel(config)),
        tokenizer=tokenizer,
    )
    return _tiny("aura_flow", pipeline, family="flow")


def pixart(*, sigma: bool = False) -> Tiny:
    """Alpha is told the size of the image, Sigma is not; both learned the variance too."""
    torch.manual_seed(21 if sigma else 22)
    network = PixArtTransformer2DModel(
        sample_size=64 if sigma else 128,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=40,
        use_additional_conditions=None if sigma else True,
    )
    for block in network.transformer_blocks:
        frozen(block.attn2.to_v, scale=2.0)
    build = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    pipeline = build(
        transformer=frozen(network, scale=1.5),
        scheduler=ddim(),
        vae=autoencoder(scaling_factor=0.13025 if sigma else 0.18215, widths=(8, 8, 8, 8)),
        text_encoder=_t5_encoder(),
        tokenizer=t5_tokenizer(),
    )
    return _tiny("pixart_sigma" if sigma else "pixart", pipeline, family="stable_diffusion")


def _t5_encoder() -> T5EncoderModel:
    torch.manual_seed(3)
    config = T5Config(vocab_size=128, d_model=40, d_kv=8, d_ff=48, num_layers=1, num_heads=2, dropout_rate=0.0)
    return frozen(T5EncoderModel(config))


def latent_diffusion() -> Tiny:
    """Text-conditioned LDM. Its pipeline divides the image by 8, whatever its autoencoder does: here, by 2."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(4)
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=2,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=8,
        )
    )
    pipeline = LDMTextToImagePipeline(
        vqvae=autoencoder(),
        bert=frozen(bert, scale=10.0),
        tokenizer=tokenizer,
        unet=unet(context=16, sample_size=4 * SIZE // 2),
        scheduler=ddim(),
    )
    return _tiny("ldm", pipeline, family="stable_diffusion")


def build(name: str) -> Tiny:
    """One of NAMES."""
    return {
        "sd1": lambda: stable_diffusion(version=1),
        "sd2": lambda: stable_diffusion(version=2),
        "sdxl": stable_diffusion_xl,
        "sd3": stable_diffusion_3,
        "sd3_t5": lambda: stable_diffusion_3(t5=True),
        "ldm": latent_diffusion,
        "lcm": latent_consistency,
        "flux": flux,
        "z_image": z_image,
        "klein": klein,
        "qwen_image": qwen_image,
        "lumina": lumina,
        "sana": sana,
        "chroma": chroma,
        "aura_flow": aura_flow,
        "pixart": pixart,
        "pixart_sigma": lambda: pixart(sigma=True),
        "flux_schnell": lambda: flux(guidance=False),
    }[name]()
