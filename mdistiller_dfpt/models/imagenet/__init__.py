"""Networks for 224x224 images, a file each; where torchvision has one, its weights load as they are."""

from . import mobilenetv1, mobilenetv2, resnet, shufflenetv2

__all__ = ["mobilenetv1", "mobilenetv2", "resnet", "shufflenetv2"]
