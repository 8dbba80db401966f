"""Views: random crops in the loader's workers, photometric augmentation on the device."""

from pretrain.views.augment import Augment, augment_from_config
from pretrain.views.crops import Crop, Crops, ViewGroup, crops_from_config
from pretrain.views.extras import LoaderExtra
from pretrain.views.photometric import Photometric

__all__ = [
    "Augment",
    "Crop",
    "Crops",
    "LoaderExtra",
    "Photometric",
    "ViewGroup",
    "augment_from_config",
    "crops_from_config",
]
