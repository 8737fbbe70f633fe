"""What users choose, each option declared once: its type, its default, and how the command line asks for it.

A record of options is a frozen dataclass. The command line makes its options of the fields that carry `Asked`
(`core/asked.py`, `cli/options.py`).
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from invmm_gate.core.asked import Asked
from invmm_gate.core.records import Group, Weights

ENVIRONMENT: Final = "INVMM_GATE_ENVIRONMENT"
"""Variable that holds the digest of the approved environment."""
TRACKING_URI: Final = "INVMM_GATE_TRACKING_URI"
"""Variable that holds the MLflow server: a URI may hold a password, and anybody can read a command line."""
VERIFIER: Final = "invmm-gate"
"""Id of who judged, where roots.yaml gives no other."""

Checkpoint = Annotated[Path, Asked("Checkpoint: a folder that diffusers saved, or a .safetensors file.")]
Policy = Annotated[str, Asked("strict, standard, permissive, or a policy file.")]
Probes = Annotated[Path, Asked("Folder of the probe set.")]
Seed = Annotated[
    int | None, Asked("Seed of all random streams. Default: what model, probe set and policy give.", min=0)
]
Device = Annotated[str, Asked("auto, cpu, cuda or cuda:N.")]
Rows = Annotated[int | None, Asked("Rows in one network call; fewer need less memory.", min=1)]
Sscd = Annotated[Path | None, Asked("SSCD's TorchScript file, or an ONNX encoder. Default: $INVMM_GATE_SSCD.")]
Released = Annotated[
    Weights | None, Asked("Which weights are released, where the folder holds raw and EMA weights.", name="--weights")
]
Waivers = Annotated[Path | None, Asked("waivers.yaml: owned, expiring exceptions.")]
Reviewers = Annotated[
    Path | None, Asked("Keys that may approve waivers: a .pub file, or roots.yaml.", env="INVMM_GATE_REVIEWERS")
]
Baseline = Annotated[Path | None, Asked("Approved run, or what `bless` wrote, for rule `regression`.")]
Reveal = Annotated[bool, Asked("Show probe images and copies in the report.")]
TrackingUri = Annotated[str | None, Asked("MLflow server. Default: ./mlflow.db.")]
Loras = Annotated[tuple[Path, ...], Asked("LoRA weights released on top of the model; may be repeated.", name="--lora")]
Fitting = Annotated[
    Literal["exact", "crop", "squeeze", "pad"] | None,
    Asked("How training brought images to the model's size. Images of another shape than the model's need it."),
]
Orientation = Annotated[
    Literal["refuse", "both"],
    Asked("Images that their EXIF orientation turns: refuse, or both (two probes, as stored and upright)."),
]
Details = Annotated[bool, Asked("Send MLflow ids and exact scores: they tell membership.")]
Server = Annotated[str, Asked("MLflow server.", env=TRACKING_URI)]
ServerOrFile = Annotated[str | None, Asked("MLflow server. Default: ./mlflow.db.", env=TRACKING_URI)]
SecretFile = Annotated[
    Path | None, Asked("Webhook secrets, one a line, mode 0600. Default: $INVMM_GATE_WEBHOOK_SECRET.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The choices of a `check` or `measure` command."""

    model: Checkpoint
    policy: Policy
    probes: Probes = Path("probes")
    out: Annotated[Path | None, Asked("Run folder. Default: reports/<model>-<run id>.")] = None
    """By default `reports/<model name>-<run id>`, where equal inputs have an equal run id."""
    seed: Seed = None
    """None = the one that the digests of model, probe set and policy give."""
    device: Device = "auto"
    """`auto` is CUDA where there is one."""
    rows: Rows = None
    """Noised images in one optimisation step; part of the run's identity, as it moves the last bits of a score."""
    allow_pickle: Annotated[bool, Asked("Read pickled weights; the report shows it.")] = False
    weights: Released = None
    """Which weights are released, where a checkpoint holds raw and EMA weights."""
    loras: Loras = ()
    """LoRA weights that are released on top of the model."""
    sscd: Sscd = None
    environment: Annotated[str | None, Asked(f"Approved environment. Default: ${ENVIRONMENT}.")] = None
    """Digest of the approved environment; without one and without the variable any will do."""
    command: str = ""
    """The command line, for the reader of run.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What `check` does after measuring."""

    waivers: Waivers = None
    reviewers: Reviewers = None
    """Keys that may approve waivers."""
    baseline: Baseline = None
    reveal: Reveal = False
    tracking_uri: TrackingUri = None
    track: Annotated[bool, Asked("Log the run to MLflow.", name="--track/--no-track")] = True
    details: Details = False
    """Whether MLflow is told ids and exact scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a verdict must be to count, beside its signature, its files and its policy. Nothing by default.

    The same record goes from the command line to `verify`, the registry's service, its guard and its outbox.
    """

    revoked: Annotated[Path | None, Asked("YAML list of revoked verdicts and keys.")] = None
    """Read each time: a revocation counts at once."""
    max_age: Annotated[int | None, Asked("Oldest accepted verdict, in days.", min=1, max=36500)] = None
    refuse_waivers: Annotated[bool, Asked("Accept no waived finding.")] = False
    reviewers: Reviewers = None
    """Keys, one of which must have approved each waiver; None = whoever the gate that signed accepted."""
    min_probes: Annotated[int, Asked("Fewest accepted probes, without controls and planted canaries.", min=1)] = 1
    probe_set_digest: Annotated[str | None, Asked("The probe set that must have been used.")] = None
    image_size: Annotated[
        str | None, Asked("HEIGHTxWIDTH in pixels, or one side: the size at which models are served.")
    ] = None
    refuse_chosen_seed: Annotated[bool, Asked("Accept only the seed that model, probe set and policy give.")] = False
    max_attempts: Annotated[
        int | None, Asked("Most results of a model in the audit log, this one included.", min=1)
    ] = None
    """Most different results of a model in the audit log."""
    environment: Annotated[str | None, Asked("The installed environment that must have measured.", env=ENVIRONMENT)] = (
        None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChoices:
    """How versions of the registry are gated, and what becomes of those that pass."""

    policy: Policy
    probes: Probes = Path("probes")
    key: Annotated[
        Path | None, Asked("Key that signs verdicts; without it nothing is promoted.", env="INVMM_GATE_KEY")
    ] = None
    roots: Annotated[
        Path | None, Asked("Keys to trust. Default: the .pub file beside --key.", env="INVMM_GATE_ROOTS")
    ] = None
    """Trust roots that the key belongs to."""
    seed: Seed = None
    """None = the one that the digests of each model, the probe set and the policy give."""
    device: Device = "auto"
    rows: Rows = None
    sscd: Sscd = None
    waivers: Waivers = None
    baseline: Baseline = None
    weights: Released = None
    conditions: Conditions = Conditions()
    """What is asked of a verdict that is there already, before it is relied on, and before anything is promoted."""
    alias: Annotated[str, Asked("Alias that moves to a version that passes; '' promotes nothing.")] = "champion"
    release_name: Annotated[
        str | None, Asked("Model that versions which pass are released as. Default: NAME-release.")
    ] = None
    details: Details = False
    """Whether MLflow is told ids and exact scores."""
    runs: Path = Path(".invmm-gate/runs")
    """Folder of the run folders; the outbox and the audit log lie beside it."""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChoices:
    """The registry that `registry serve` and `sync` look after, and how."""

    tracking_uri: Server
    state: Annotated[Path, Asked("Folder of ledger, logs and run folders, on a local disk.")] = Path(".invmm-gate")
    models: Annotated[tuple[str, ...], Asked("Model to watch; may be repeated. Default: all.", name="--model")] = ()
    protect: Annotated[tuple[str, ...], Asked("Protected alias beside --alias; may be repeated.")] = ()
    enforce: Annotated[bool, Asked("Remove protected aliases that no pass vouches for.")] = False
    retries: Annotated[int, Asked("Fresh starts of a gate that ended without a verdict.", min=0)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where `registry serve` is reached, and how often it looks by itself."""

    secret_file: SecretFile = None
    host: Annotated[str, Asked("Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Asked("Port; 0 takes any free one.", min=0, max=65535)] = 8765
    path: Annotated[str, Asked("Path of the webhook.")] = "/hook"
    every: Annotated[float, Asked("Seconds between looks for versions without a verdict.", min=1)] = 60.0
    workers: Annotated[int, Asked("Gates that may run side by side.", min=1, max=64)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The choices of a `probes build` command."""

    folder: Path
    sources: Annotated[
        tuple[Path, ...],
        Asked(
            "Training data: a folder, .tar, .parquet, .csv or .jsonl, or a pattern of some; may be repeated.",
            name="--from",
        ),
    ]
    metric: Annotated[str, Asked("pixel_rmse or a name that begins with sscd or onnx.")] = "pixel_rmse"
    sscd: Sscd = None
    size: Annotated[int | None, Asked("Side at which images are compared. Default: 32; SSCD 320.")] = None
    """Side at which images are compared; by default 32 for pixels, 320 for SSCD."""
    threshold: Annotated[float | None, Asked("Copy threshold. Default: 0.1; SSCD 0.5; ONNX none.")] = None
    """Copy threshold; by default the metric's own."""
    diameter: Annotated[float, Asked("Largest diameter of a cluster, in thresholds, 1 to 2.")] = 1.0
    """Largest diameter of a cluster, in copy thresholds (as distances)."""
    duplicated: Annotated[int, Asked("Largest clusters to take a probe of.", min=0)] = 32
    sensitive: Annotated[Path | None, Asked("File that lists sensitive images, one path a line.")] = None
    sensitive_column: Annotated[str, Asked("NAME or NAME=VALUE that marks sensitive rows.")] = ""
    sample: Annotated[
        int, Asked("Training images to draw at random, for a bound on the share that can be extracted.", min=0)
    ] = 0
    """They are drawn from all training images, whichever are probes of another group."""
    controls: Annotated[int | None, Asked("Controls to draw. Default: up to 32 of what there is.", min=0)] = None
    controls_from: Annotated[
        tuple[Path, ...], Asked("Images the model cannot have seen, as for --from; may be repeated.")
    ] = ()
    trained_until: datetime.date | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    class_folders: Annotated[
        bool, Asked("Each folder in the training data is a class, numbered from 0 in the order of names.")
    ] = False
    """As torchvision and datasets number the classes of a folder of images."""
    images: Annotated[Path | None, Asked("Where paths in all tables begin. Default: a table's folder.")] = None
    """Where the paths in all tables begin, those of controls too; by default each table's folder."""
    category: Annotated[str, Asked("Category of the sensitive probes.")] = ""
    licence: Annotated[str, Asked("Consent or licence of all probes.")] = ""
    seed: Annotated[int, Asked("Seed of the draws of controls and of the sample.", min=0)] = 0
    device: Annotated[str, Asked("auto, cpu, cuda or cuda:N; for SSCD.")] = "auto"
    cache: Annotated[Path | None, Asked("Folder that keeps embeddings for the next time.")] = None
    strict: Annotated[bool, Asked("Stop at the first image that cannot be read.")] = False
    fit: Fitting = None
    orientation: Orientation = "refuse"

    @property
    def view(self) -> Literal["stored", "plain"]:
        """How training images that are turned are read."""
        return "stored" if self.orientation == "both" else "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryOptions:
    """The choices of a `probes canaries` command."""

    folder: Path
    count: Annotated[int, Asked("Canaries of each multiplicity.", min=1)] = 20
    """Of each multiplicity, not in all."""
    multiplicities: tuple[int, ...] = ()
    """How often canaries are to be planted, ascending."""
    size: tuple[int, int] = (0, 0)
    """(height, width) in pixels."""
    seed: Annotated[int | None, Asked("Seed of the keys. Default: a fresh one, which the manifest names.", min=0)] = (
        None
    )
    """Whoever knows the seed knows the canaries."""
    grey: Annotated[bool, Asked("Draw 8-bit grey images.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProbes:
    """What the manifest is to say of images that are added together."""

    group: Annotated[Group, Asked("What the images are probes of.")]
    category: Annotated[str, Asked("Category that rules can select.")] = ""
    caption: Annotated[str, Asked("Caption of images that bring none, for text-to-image models.")] = ""
    cluster: Annotated[str, Asked("Name shared by probes that show the same picture.")] = ""
    source: Annotated[str, Asked("Where the images come from.")] = ""
    licence: Annotated[str, Asked("Consent or licence.")] = ""
    multiplicity: Annotated[
        int | None, Asked("How often each image was planted in the training data; canaries only.", min=1)
    ] = None
    """None where nobody knows."""
    label: Annotated[
        int | None, Asked("Class that the images were trained under, for class-conditional models.", min=0)
    ] = None
    """None where nobody knows."""
    fit: Fitting = None
    orientation: Orientation = "refuse"
    """`both` makes two probes of one cluster of an image that is turned: `ID-stored` and `ID-upright`, as PNG."""
    added_on: datetime.date | None = None
    """None leaves the column empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """With what, and as what, a run is signed."""

    key: Annotated[Path, Asked("Private key, in a file of mode 0600.", env="INVMM_GATE_KEY")]
    policy: Annotated[
        str | None, Asked("The policy that it was judged under. Default: the shipped one of its name.")
    ] = None
    """A name or a file; needed where it is none that ships."""
    expires_in: Annotated[int, Asked("Days until it expires.", min=1, max=3650)] = 90
    """An attestation never outlives a waiver that it rests on."""
    previous: Annotated[Path | None, Asked("The attestation before this one, to be chained to.")] = None
    """Signed by a key of `roots`, or by the same key where there are none."""
    roots: Annotated[Path | None, Asked("Keys that may have signed --previous. Default: the key itself.")] = None
    verifier: Annotated[str, Asked("Id of who judged, as roots.yaml names it.")] = VERIFIER
    log: Annotated[Path | None, Asked("Audit log that gets a line for the verdict.")] = None
    """It gets a line before the attestation is written, and counts the attempts at this model."""
    name: str | None = None
    """What attestation and log call the model; by default as the run does."""
