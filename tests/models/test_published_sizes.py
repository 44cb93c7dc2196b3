"""The published sizes of Qwen, Gemma and Phi have as many parameters as the released models."""

import math

import pytest

from bigmodel_jax.interop import huggingface
from bigmodel_jax.models import gemma, phi, qwen

# Of several families of a model_type the first, which has no head.
KNOWN = {family.model_types[0]: family for family in reversed(huggingface.FAMILIES)}


@pytest.mark.parametrize(
    ('model', 'family', 'parameters'),
    [
        (qwen.QWEN25_500M, 'qwen2', 494_032_768),
        (qwen.QWEN25_1500M, 'qwen2', 1_543_714_304),
        (qwen.QWEN25_3B, 'qwen2', 3_085_938_688),
        (qwen.QWEN25_7B, 'qwen2', 7_615_616_512),
        (qwen.QWEN3_600M, 'qwen3', 596_049_920),
        (qwen.QWEN3_1700M, 'qwen3', 1_720_574_976),
        (qwen.QWEN3_4B, 'qwen3', 4_022_468_096),
        (qwen.QWEN3_8B, 'qwen3', 8_190_735_360),
        (gemma.GEMMA_2B, 'gemma', 2_506_172_416),
        (gemma.GEMMA_7B, 'gemma', 8_537_680_896),
        (gemma.GEMMA2_2B, 'gemma2', 2_614_341_888),
        (gemma.GEMMA2_9B, 'gemma2', 9_241_705_984),
        (gemma.GEMMA2_27B, 'gemma2', 27_227_128_320),
        (gemma.GEMMA3_1B, 'gemma3_text', 999_885_952),
        (gemma.GEMMA3_4B, 'gemma3_text', 3_880_263_168),
        (phi.PHI3_MINI_4K, 'phi3', 3_821_079_552),
        (phi.PHI4_14B, 'phi3', 14_659_507_200),
    ],
)
def test_parameters_and_config(model, family, parameters):
    """config_of() refuses a model of which the reference's config.json says something else."""
    known = KNOWN[family]
    known.config_of(model)
    total = sum(math.prod(shape) for shape in huggingface.whole(model, known).values())
    assert total == parameters
