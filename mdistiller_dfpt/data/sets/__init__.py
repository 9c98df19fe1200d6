"""One file per dataset; importing this package registers all of them."""

from . import cifar100, cub200, digits, folder, imagenet, tiny_imagenet

__all__ = ["cifar100", "cub200", "digits", "folder", "imagenet", "tiny_imagenet"]
