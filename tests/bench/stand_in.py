"""A checkout that is laid out as mdistiller's: what its tools/train.py imports, in a few lines."""

from pathlib import Path

FILES = {
    "__init__.py": "",
    "engine/__init__.py": """
import torch
from tensorboardX import SummaryWriter
from .utils import accuracy

class BaseTrainer:
    used = ("image", "target")

    def __init__(self, experiment_name, distiller, train_loader, val_loader, cfg):
        self.distiller, self.writer = distiller, SummaryWriter(cfg.LOG.PREFIX)
        if cfg.SOLVER.TYPE != "SGD":
            raise NotImplementedError(cfg.SOLVER.TYPE)
        self.optimizer = torch.optim.SGD(
            distiller.module.get_learnable_parameters(), lr=cfg.SOLVER.LR, momentum=cfg.SOLVER.MOMENTUM,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )

    def train_iter(self, data, epoch, train_meters):
        names = ("image", "target", "index", "contrastive_index")
        inputs = {name: x.cuda(non_blocking=True) for name, x in zip(names, data) if name in self.used}
        self.optimizer.zero_grad()
        logits, losses = self.distiller(epoch=epoch, **inputs)
        loss = sum(l.mean() for l in losses.values())
        loss.backward()
        self.optimizer.step()
        train_meters["losses"].update(loss.item(), len(logits))
        train_meters["top1"].update(accuracy(logits, inputs["target"]), len(logits))
        return f"loss {train_meters['losses'].avg:.3f}"

class CRDTrainer(BaseTrainer):
    used = ("image", "target", "index", "contrastive_index")

trainer_dict = {"base": BaseTrainer, "crd": CRDTrainer}
""",
    "engine/cfg.py": """
from yacs.config import CfgNode as CN
CFG = CN({
    "DATASET": {"TYPE": "cifar100", "NUM_WORKERS": 2},
    "DISTILLER": {"TYPE": "NONE"},
    "SOLVER": {"BATCH_SIZE": 64, "LR": 0.05, "MOMENTUM": 0.9, "WEIGHT_DECAY": 1e-4, "TYPE": "SGD"},
    "LOG": {"PREFIX": "./output"},
    "KD": {"TEMPERATURE": 4, "LOSS": {"CE_WEIGHT": 0.5, "KD_WEIGHT": 1}},
    "FITNET": {"HINT_LAYER": 2, "INPUT_SIZE": (8, 8), "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0}},
    "CRD": {"FEAT": {"DIM": 128, "STUDENT_DIM": 256, "TEACHER_DIM": 256}, "NCE": {"K": 16384, "TEMPERATURE": 0.07},
            "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 0.8}},
})
""",
    "engine/utils.py": """
class AverageMeter:
    def __init__(self):
        self.sum = self.count = 0

    def update(self, value, n):
        self.sum, self.count = self.sum + value * n, self.count + n
        self.avg = self.sum / self.count

def accuracy(logits, target):
    return (logits.argmax(1) == target).float().mean() * 100

def log_msg(msg, mode):
    return f"[{mode}] {msg}"
""",
    "dataset/__init__.py": """
import numpy as np
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from . import cifar100

class Instances(datasets.CIFAR100):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, target, index

class Samples(Instances):
    def __init__(self, k, **kwargs):
        super().__init__(**kwargs)
        self.k, self.others = k, [np.flatnonzero(np.asarray(self.targets) != c) for c in range(100)]

    def __getitem__(self, index):
        image, target, _ = super().__getitem__(index)
        return image, target, index, np.hstack(([index], np.random.choice(self.others[target], self.k)))

def get_dataset(cfg):
    crop = [transforms.RandomCrop(32, padding=4), transforms.ToTensor()]
    folder = {"root": cifar100.get_data_folder(), "train": True, "download": True}
    cls, more = (Samples, {"k": cfg.CRD.NCE.K}) if cfg.DISTILLER.TYPE == "CRD" else (Instances, {})
    images = cls(transform=transforms.Compose(crop), **folder, **more)
    return DataLoader(images, cfg.SOLVER.BATCH_SIZE, shuffle=True, num_workers=cfg.DATASET.NUM_WORKERS), None, 0, 100
""",
    "dataset/cifar100.py": """
def get_data_folder():
    raise AssertionError("mdistiller creates this folder in the checkout")
""",
    "models/__init__.py": """
from mdistiller_dfpt import build_model

def builder(name):
    return lambda num_classes: build_model(name, "cifar", num_classes)

cifar_model_dict = {name: (builder(name), None) for name in ("resnet8", "resnet14", "MobileNetV2", "vgg8")}
""",
    "distillers/__init__.py": """
import torch
from torch import nn
from torch.nn import functional as F

class Vanilla(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def get_learnable_parameters(self):
        return [p for name, p in self.named_parameters() if not name.startswith("teacher")]

    def forward(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"ce": F.cross_entropy(logits, target)}

class Distiller(Vanilla):
    def __init__(self, student, teacher, cfg):
        super().__init__(student)
        self.teacher, self.node = teacher.cuda(), cfg[type(self).__name__.upper()]
        self.read_at_construction = next(teacher.parameters()).clone()  # as for margins
        with torch.no_grad():  # as its methods infer feature shapes
            self.maps = [network.train()(torch.randn(2, 3, 16, 16))[1]["feats"] for network in (student, teacher)]

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image, target, **kwargs):
        logits, features = self.student(image)
        with torch.no_grad():
            logits_t, features_t = self.teacher(image)
        ce = self.node.LOSS.CE_WEIGHT * F.cross_entropy(logits, target)
        return logits, {"ce": ce, "kd": self.match(logits, features, logits_t, features_t, **kwargs)}

class KD(Distiller):
    def match(self, logits, features, logits_t, features_t, epoch):
        t = self.node.TEMPERATURE
        kl = F.kl_div(F.log_softmax(logits / t, 1), F.softmax(logits_t / t, 1), reduction="batchmean")
        return FACTOR * self.node.LOSS.KD_WEIGHT * kl * t**2

class FITNET(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher, cfg)
        hint, target = (maps[self.node.HINT_LAYER].shape for maps in self.maps)
        self.conv, self.bn = nn.Conv2d(hint[1], target[1], 1), nn.BatchNorm2d(target[1])
        self.size = self.node.INPUT_SIZE

    def match(self, logits, features, logits_t, features_t, epoch):
        hint = F.relu(self.bn(self.conv(features["feats"][self.node.HINT_LAYER])))
        return self.node.LOSS.FEAT_WEIGHT * F.mse_loss(hint, features_t["feats"][self.node.HINT_LAYER])

class CRD(Distiller):
    def __init__(self, student, teacher, cfg, num_data):
        super().__init__(student, teacher, cfg)
        dim = self.node.FEAT.DIM
        self.embed_s = nn.Linear(self.node.FEAT.STUDENT_DIM, dim)
        self.embed_t = nn.Linear(self.node.FEAT.TEACHER_DIM, dim)
        self.register_buffer("params", torch.zeros(5))
        self.register_buffer("bank_s", torch.rand(num_data, dim))
        self.register_buffer("bank_t", torch.rand(num_data, dim))

    def match(self, logits, features, logits_t, features_t, index, contrastive_index, epoch=None):
        s = F.normalize(self.embed_s(features["pooled_feat"]))
        t = F.normalize(self.embed_t(features_t["pooled_feat"]))
        loss, k, n = 0, contrastive_index.shape[1] - 1, len(self.bank_s)
        for x, bank in ((s, self.bank_t), (t, self.bank_s)):
            score = (bank[contrastive_index] @ x[:, :, None]).squeeze(2).div(self.node.NCE.TEMPERATURE).exp()
            p = score / (score.detach().mean() * n)
            true = p[:, 0] / (p[:, 0] + k / n + 1e-7)
            false = (k / n) / (p[:, 1:] + k / n + 1e-7)
            loss = loss - (true.log().sum() + false.log().sum()) / len(x)
        return self.node.LOSS.FEAT_WEIGHT * loss

class AT(nn.Module):
    def __init__(self, student, teacher, cfg):
        super().__init__()
        self.student, self.teacher = student, teacher

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward(self, image, target, epoch):
        raise KeyError("preact_feats")

distiller_dict = {"KD": KD, "FITNET": FITNET, "CRD": CRD, "AT": AT, "NONE": Vanilla}
""",
}


def write(folder: Path, factor: float) -> Path:
    """Write the checkout; its KD term is multiplied by `factor`."""
    for name, text in FILES.items():
        path = folder / "mdistiller" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("FACTOR", str(factor)))
    return folder
