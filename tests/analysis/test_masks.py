"""Maps of classes as pictures: the classes of resized logits, palettes, overlays, and VOC's colours."""

import io

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from relgraph.analysis.colours import NO_CLASS, TEN, area_colours, rgb
from relgraph.analysis.masks import classes_of, mask_picture, overlay
from relgraph.data.label_maps import IGNORED
from tests.checks import case


def test_classes_are_the_arg_max_of_logits_resized_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes, size in ((1, (5, 7)), (3, (5, 7)), (12, (40, 30)), (3, (2, 3))):
        with case(classes, size):
            logits = torch.randn(classes, 5, 7, generator=generator)
            logits[:, 0] = 0  # all classes are equal there
            expected = interpolate(logits[None], size, mode="bilinear")[0].argmax(0)
            assert torch.equal(classes_of(logits, size), expected.to(torch.uint8))


def test_logits_that_are_no_numbers_give_the_first_class() -> None:
    assert classes_of(torch.full((3, 2, 2), torch.nan), (4, 4)).count_nonzero() == 0


def test_a_mask_is_read_again_as_the_numbers_of_its_classes() -> None:
    for classes in (1, 10, 11, 255):
        with case(classes):
            mask = torch.tensor([[0, classes - 1, IGNORED]], dtype=torch.uint8)
            stream = io.BytesIO()
            mask_picture(mask, area_colours(classes)).save(stream, "PNG")
            read = Image.open(stream)
            assert read.mode == "P" and np.asarray(read).tolist() == mask.tolist()
            colours = [tuple(pixel) for pixel in np.asarray(read.convert("RGB"))[0].tolist()]
            assert colours == [rgb(area_colours(classes)[0]), rgb(area_colours(classes)[-1]), rgb(NO_CLASS)]


def test_colours_of_areas_are_the_ten_or_those_of_voc() -> None:
    # Of the development kit of VOC 2012: background, aeroplane, bicycle, bird, boat, bottle, ..., tv monitor.
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [rgb(colour) for colour in area_colours(21)][:7] == voc and rgb(area_colours(21)[20]) == (0, 64, 128)
    assert area_colours(10) == list(TEN) and len(set(area_colours(255))) == 255


def test_an_overlay_is_half_image_and_half_colour_but_where_no_class_is() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (6, 5, 3), generator=generator, dtype=torch.uint8).numpy()
    mask = torch.randint(0, 4, (6, 5), generator=generator, dtype=torch.uint8)
    mask[0] = IGNORED
    found = np.asarray(overlay(Image.fromarray(pixels), mask, area_colours(4)))
    colours = np.array([rgb(colour) for colour in area_colours(4)])[np.where(mask == IGNORED, 0, mask)]
    half = np.where((mask == IGNORED)[..., None], pixels, (pixels.astype(int) + colours) / 2)
    assert np.abs(found - half).max() <= 1
