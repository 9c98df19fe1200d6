"""What is run on a GPU, and in miniature on a CPU: the same parts, smaller."""

from dataclasses import dataclass

SHARES = {"tests": 0.1, "smoke": 0.15, "bench": 0.35, "processes": 0.1, "training": 0.3}
"""{part: its share of the time}, in the order in which they run; what a part leaves goes to those behind it."""
MEANINGS = {
    "tests": "the tests marked `gpu`",
    "smoke": "two steps of every method and of every kind of teacher",
    "bench": "images per second and waits of a step",
    "processes": "two processes on one GPU against one",
    "training": "epochs of a run, continued by each call",
}


@dataclass(frozen=True)
class Plan:
    """The sizes of the parts. `device` is EXPERIMENT.DEVICE of all that runs."""

    name: str
    device: str
    smoke_every: int  # every so many of the methods, and of the kinds of teacher
    smoke_words: tuple[str, ...]
    matrix: int  # rows and columns of the matrices whose product is timed
    bench_cfgs: tuple[str, ...]
    batches: tuple[int, ...]
    variants: tuple[str, ...]  # settings of the sides beside the one in float32
    windows: int
    train_cfg: str
    needs_data: bool  # whether `train_cfg` needs a folder with its dataset


GPU = Plan(
    name="gpu",
    device="cuda:0",
    smoke_every=1,
    smoke_words=("SOLVER.AMP", "bf16"),
    matrix=8192,
    bench_cfgs=tuple(f"cifar100/{method}/res32x4_res8x4" for method in ("kd", "dfptkd", "dfptkd_plus")),
    batches=(64, 1024),
    variants=("SOLVER.AMP bf16", "SOLVER.AMP bf16 SOLVER.COMPILE True"),
    windows=5,
    train_cfg="cifar100/dfptkd/res32x4_res8x4",
    needs_data=True,
)
MINIATURE = Plan(
    name="miniature",
    device="cpu",
    smoke_every=40,
    smoke_words=(),
    matrix=256,
    bench_cfgs=tuple(f"digits/{method}/res20_res8" for method in ("kd", "dfptkd", "dfptkd_plus")),
    batches=(8,),
    variants=("SOLVER.CHANNELS_LAST False",),  # a compiled step takes half a minute to compile on a CPU
    windows=2,
    train_cfg="digits/dfptkd/res20_res8",
    needs_data=False,
)
PLANS = {plan.name: plan for plan in (GPU, MINIATURE)}
