"""What is done to training images on their device: a function of each image and its place in the epoch's order.

    augmentation = Augmentation(flip=True, crop_padding=4, mixup=BetaQuantiles(0.8))
    images_BHWC = augmentation.apply(images_BHWC, positions_B, seed=7, epoch=3)         # uint8, to be looked at
    pixels_BD, own_B = augmentation.inputs(
        images_BHWC, positions_B, seed=7, epoch=3, mean_C=mean_C, std_C=std_C           # what a model is trained on
    )

So an image looks the same on any number of ranks, on a GPU or not, and after any resume.

Axes: B batch, H height, W width, C channels, D = H*W*C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.data.augment import augment_normalise, augmentation_bits, random_flip_crop
from pipeline.data.crop import RandomCrop
from pipeline.data.mixup import BetaQuantiles, mix_neighbours, own_shares
from pipeline.data.resized_crop import crop_normalise, random_boxes, resized_crop


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done, in this order.

    Attributes:
        crop: a random box, enlarged and mirrored, without the next two; None: off, or done by a decoder already.
        crop_padding: largest shift in pixels.
        flip: mirror half of the images.
        mixup: distribution of the share that a sample keeps when it is blended with its neighbour; None: off.
    """

    flip: bool = False
    crop_padding: int = 0
    crop: RandomCrop | None = None
    mixup: BetaQuantiles | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and (self.flip or self.crop_padding):
            raise ValueError("crop with flip or crop_padding: one of the two wanted")

    def apply(self, images_BHWC: torch.Tensor, positions_B: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
        """Return cropped, shifted and mirrored uint8 images, not blended; `positions_B` are places in the order."""
        if self.crop is not None:
            height, width = images_BHWC.shape[1:3]
            boxes = random_boxes(self.crop, positions_B, epoch=epoch, height=height, width=width)
            return resized_crop(images_BHWC, boxes)
        if not (self.flip or self.crop_padding):
            return images_BHWC
        bits_B = augmentation_bits(positions_B, seed=seed, epoch=epoch)
        return random_flip_crop(images_BHWC, bits_B, flip=self.flip, crop_padding=self.crop_padding)

    def own_shares(self, positions_B: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor | None:
        """Return each sample's share in its blend, float32, or None where nothing is blended."""
        return None if self.mixup is None else own_shares(self.mixup, positions_B, seed=seed, epoch=epoch)

    def inputs(
        self,
        images_BHWC: torch.Tensor,
        positions_B: torch.Tensor,
        *,
        seed: int,
        epoch: int,
        mean_C: torch.Tensor,
        std_C: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the normalised, blended pixels (B, D) of `apply`'s images, and `own_shares`."""
        if self.crop is not None:
            height, width = images_BHWC.shape[1:3]
            boxes = random_boxes(self.crop, positions_B, epoch=epoch, height=height, width=width)
            pixels_BD = crop_normalise(images_BHWC, boxes, mean_C=mean_C, std_C=std_C)
        else:
            is_moved = self.flip or self.crop_padding > 0
            bits_B = augmentation_bits(positions_B, seed=seed, epoch=epoch) if is_moved else None
            pixels_BD = augment_normalise(
                images_BHWC, bits_B, flip=self.flip, crop_padding=self.crop_padding, mean_C=mean_C, std_C=std_C
            )
        own_B = self.own_shares(positions_B, seed=seed, epoch=epoch)
        return (pixels_BD if own_B is None else mix_neighbours(pixels_BD, own_B)), own_B
