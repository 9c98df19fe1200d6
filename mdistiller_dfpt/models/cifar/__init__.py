"""The CIFAR networks of the distillation literature, one family per file."""

from . import mobilenetv2, resnet, resnetv2, shufflenetv1, shufflenetv2, vgg, wrn

__all__ = ["mobilenetv2", "resnet", "resnetv2", "shufflenetv1", "shufflenetv2", "vgg", "wrn"]
