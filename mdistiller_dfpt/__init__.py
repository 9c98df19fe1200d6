"""Knowledge distillation for image classifiers: DFPT-KD and the methods it is compared with.

The names are imported when they are first used, so a command that needs no torch starts at once. `__init__.pyi` has the
list of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
