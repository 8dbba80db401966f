"""Two views of an image: crops on the CPU, photometric augmentation batched on the device."""

from pretrain.views.crops import Crop, LocalCrops, TwoCrops
from pretrain.views.photometric import Photometric

__all__ = ["Crop", "LocalCrops", "Photometric", "TwoCrops"]
