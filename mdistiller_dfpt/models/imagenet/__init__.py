"""Networks for 224x224 images, one file each; those of torchvision load its weights unchanged."""

from . import mobilenetv1, mobilenetv2, resnet, shufflenetv2

__all__ = ["mobilenetv1", "mobilenetv2", "resnet", "shufflenetv2"]
