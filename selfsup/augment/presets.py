"""The augmentations of the published methods.

All jitter is torchvision's, in which contrast blends with the mean of the gray picture and saturation with the gray
picture; and all resizing is antialiased, as PIL's is, but SimCLR's, as TensorFlow's is not.
"""

from collections.abc import Callable
from dataclasses import replace

from selfsup.augment.parameters import Blur, Erase, Jitter, View
from selfsup.augment.size import Size
from selfsup.augment.views import Augment

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def instdisc(size: int = 224) -> Augment:
    """Instance discrimination on ImageNet (Wu et al. 2018; lemniscate.pytorch `main.py`): one view, gray first."""
    view = View(
        size=size,
        crop_scale=(0.2, 1.0),
        grayscale=0.2,
        grayscale_first=True,
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        flip=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return Augment(views=(view,))


def instdisc_cifar(size: int = 32) -> Augment:
    """Instance discrimination on CIFAR-10 (Wu et al. 2018; lemniscate.pytorch `cifar.py`): one view, no flip."""
    view = View(
        size=size,
        crop_scale=(0.2, 1.0),
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        grayscale=0.2,
        flip=0.0,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )
    return Augment(views=(view,))


def moco_v1(size: int = 224) -> Augment:
    """MoCo v1 on ImageNet (He et al. 2020, sec. 3.3; moco `main_moco.py`): two views of instance discrimination's."""
    return Augment(views=instdisc(size).views * 2)


def moco_v2(size: int = 224) -> Augment:
    """MoCo v2 on ImageNet (Chen et al. 2020, "Improved baselines"; moco `main_moco.py --aug-plus`).

    The blur is a true Gaussian of 23 taps with reflected borders; the authors' is PIL's approximation by box filters.
    """
    view = View(
        size=size,
        crop_scale=(0.2, 1.0),
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        grayscale=0.2,
        blur=Blur(probability=0.5, sigma=(0.1, 2.0)),
        flip=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return Augment(views=(view, view))


def moco_v3(size: int = 224, crop_from: float = 0.08) -> Augment:
    """MoCo v3 on ImageNet (Chen et al. 2021, A; published code `main_moco.py`): blur always in view 1, hardly in 2.

    Args:
        size: pixels of a side.
        crop_from: the least part of the image that a crop has; 0.08 for transformers, 0.2 for ResNet-50.
    """
    first = View(
        size=size,
        crop_scale=(crop_from, 1.0),
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8),
        grayscale=0.2,
        blur=Blur(probability=1.0, sigma=(0.1, 2.0)),
        flip=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    second = replace(first, blur=Blur(probability=0.1, sigma=(0.1, 2.0)), solarize=0.2)
    return Augment(views=(first, second))


def moco_cifar(size: int = 32) -> Augment:
    """MoCo on CIFAR-10 (He et al. 2020; the authors' notebook `moco_cifar10_demo`): crops from 0.08, no blur."""
    view = View(
        size=size,
        crop_scale=(0.08, 1.0),
        flip=0.5,
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        grayscale=0.2,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )
    return Augment(views=(view, view))


def simclr(size: int = 224, strength: float = 1.0, blur: float = 0.5, additive_brightness: bool = False) -> Augment:
    """SimCLR (Chen et al. 2020, appendix A; simclr `data_util.py`): values stay in [0, 1], without mean and deviation.

    Crops are drawn and resized as by TensorFlow: at most 100 attempts, none below a tenth of the image, cubic without
    antialiasing. The blur has the published number of taps, 2 (size // 10 // 2) + 1, 23 for 224 pixels, and its zero
    border. Departures from the published code:
    - the jitter has torchvision's meaning; theirs has contrast about the mean of each channel and saturation in HSV;
    - the width of the blur is drawn for each view, not for a whole batch;
    - what a cubic resize overshoots is cut to [0, 1] at once, there after the first colour operation; and resizing is
      that of the code for TensorFlow 2 (pixels have centres, a = -1/2), in TensorFlow 1 it is shifted, with a = -3/4.

    Args:
        size: of a view, in pixels.
        strength: s, of the colour jitter: 1 for ImageNet, 0.5 for CIFAR.
        blur: probability of the blur.
        additive_brightness: brightness is added, as in the code's first version ("simclrv1"), instead of multiplied.
    """
    view = View(
        size=size,
        crop_scale=(0.08, 1.0),
        crop_attempts=100,
        crop_sampler="tensorflow",
        interpolation="bicubic_aliased",
        flip=0.5,
        jitter=Jitter(
            brightness=0.8 * strength,
            contrast=0.8 * strength,
            saturation=0.8 * strength,
            hue=0.2 * strength,
            probability=0.8,
            additive_brightness=additive_brightness,
        ),
        grayscale=0.2,
        blur=Blur(probability=blur, sigma=(0.1, 2.0), kernel_size=2 * (size // 10 // 2) + 1, border="zero"),
    )
    return Augment(views=(view, view))


def simclr_cifar(size: int = 32) -> Augment:
    """SimCLR on CIFAR-10 (Chen et al. 2020, appendix B.9): half the jitter's strength, no blur."""
    return simclr(size, strength=0.5, blur=0.0)


def supcon_cifar(size: int = 32) -> Augment:
    """SupCon on CIFAR-100 (Khosla et al. 2020; SupContrast `main_supcon.py`)."""
    view = View(
        size=size,
        crop_scale=(0.2, 1.0),
        flip=0.5,
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        grayscale=0.2,
        mean=CIFAR100_MEAN,
        std=CIFAR100_STD,
    )
    return Augment(views=(view, view))


def metric(size: int = 224) -> Augment:
    """Supervised metric learning (Wang et al. 2020, XBM): one view, a random resized crop and a flip.

    The authors first resize the short side to 256 pixels, which a crop that is resized anyway does not need.
    """
    view = View(size=size, crop_scale=(0.2, 1.0), flip=0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Augment(views=(view,))


def reid(size: Size = (256, 128), shift: int = 10) -> Augment:
    """Re-identification (Ge et al. 2020, SpCL): one view, the whole image, shifted and partly erased.

    The image is resized to the size whatever its aspect ratio, flipped, padded with black and cut again at random,
    normalised, and a box of it is erased. The authors' code erases with the values of the ImageNet mean after the
    normalisation; here the box has the value 0 then, which is the mean itself. A box that fits is sought in 10
    attempts, there in 100.

    Args:
        size: of the view in pixels: height and width, as people stand upright, or the side of a square.
        shift: by how many pixels the image is padded.
    """
    view = View(
        size=size,
        crop="shifted",
        shift=shift,
        interpolation="bicubic",
        flip=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        erase=Erase(probability=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3)),
    )
    return Augment(views=(view,))


def multi_crop(
    base: Augment,
    small_size: int = 96,
    count: int = 6,
    small_scale: tuple[float, float] = (0.05, 0.14),
    large_scale: tuple[float, float] = (0.14, 1.0),
) -> Augment:
    """Multi-crop (Caron et al. 2020, SwAV, sec. 3.3): the views of `base` from large boxes, then small ones.

    Boxes are drawn by torchvision's sampler, as in the published code, whatever that of `base` is.

    Args:
        base: gives the large views, and to the small ones all but size and scale.
        small_size: side of a small view in pixels.
        count: number of small views.
        small_scale: their share of the image's area.
        large_scale: that of the large views.
    """
    if count < 1:
        raise ValueError(f"multi_crop's count is {count}; give at least 1 small view, or leave multi_crop out.")
    large = tuple(
        replace(view, crop="resized", shift=0, crop_scale=large_scale, crop_sampler="torchvision")
        for view in base.views
    )
    small = replace(large[0], size=small_size, crop_scale=small_scale)
    return replace(base, views=large + (small,) * count)


PRESETS: dict[str, Callable[[], Augment]] = {
    "instdisc": instdisc,
    "instdisc_cifar": instdisc_cifar,
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "moco_cifar": moco_cifar,
    "simclr": simclr,
    "simclr_cifar": simclr_cifar,
    "supcon_cifar": supcon_cifar,
    "metric": metric,
    "reid": reid,
}
