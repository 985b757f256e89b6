from dataclasses import replace

import numpy as np
import torch

from tests.tiny_models import TinyModels
from vpdist.encoders.encoder import DTYPES
from vpdist.encoders.products import quick_products_rate
from vpdist.encoders.shape import encoder_shape


def test_plain_products_have_a_rate_and_an_encoder_without_layers_has_none(models: TinyModels) -> None:
    shape = encoder_shape(models.protein)
    cpu, dtype = torch.device("cpu"), DTYPES["float32"]
    assert quick_products_rate(shape, 256, dtype, cpu) > 0
    assert quick_products_rate(replace(shape, layers=0), 256, dtype, cpu) == 0


def test_operations_grow_with_the_square_of_a_sequence(models: TinyModels) -> None:
    shape = encoder_shape(models.protein)
    linear, pair = shape.linear_flops_per_token, shape.attention_flops_per_token_pair
    assert shape.operations(np.array([3, 5])) == 8 * linear + (9 + 25) * pair
    assert shape.operations(np.array([], dtype=np.int64)) == 0
