"""One file a data set: importing this package registers them all."""

from . import cifar100, cub200, digits, folder, imagenet, tiny_imagenet

__all__ = ["cifar100", "cub200", "digits", "folder", "imagenet", "tiny_imagenet"]
