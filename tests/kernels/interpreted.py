"""The Triton kernels against their references, in Triton's interpreter.

Not collected by itself: the interpreter is chosen by TRITON_INTERPRET=1 when Triton is imported, so
tests/kernels/test_interpreted.py runs this file in a child process.
"""

import pytest
import torch

from ovsdino.kernels import ops, reference

ROUNDING = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of the last digit kept
TYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def noise(*shape, seed=0, scale=1.0, shift=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def block_inputs(batch, channels, height, width, dtype=torch.float32, **kwargs):
    x = noise(batch, channels, height, width, **kwargs)
    weight = noise(channels, 1, 3, 3, seed=1)
    return (x.to(dtype), weight.to(dtype), noise(channels, seed=2), noise(channels, seed=3))


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype
    tolerance = ROUNDING[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(((2, 6, 5, 7), dtype) for dtype in ROUNDING),
        ((1, 4, 1, 1), torch.float32),
        ((1, 4, 65, 66), torch.float32),  # with stride 1 two blocks a group, the last one partly filled
        ((3, 4, 8, 2), torch.float16),
    ],
    ids=str,
)
def test_depthwise_block(shape, stride, dtype):
    inputs = block_inputs(*shape, dtype)
    expected = reference.depthwise_block(*inputs, 2, stride)
    assert_same(ops.launch_depthwise_block(*inputs, 2, stride), expected)


@pytest.mark.parametrize(
    ("scale", "shift"), [(1e-6, 0), (1, 1000), (6e4, 0), (1e12, 0), (0, 3), (0, 0), (0, -0.0)]
)
@pytest.mark.parametrize("block", [512, ops.GROUP_BLOCK])
def test_depthwise_block_with_extreme_values(scale, shift, block, monkeypatch):
    """The mean may be far greater than the spread, a group constant, squares large; in five blocks or one."""
    monkeypatch.setattr(ops, "GROUP_BLOCK", block)
    x, weight, gamma, beta = block_inputs(1, 4, 34, 33, scale=scale, shift=shift)
    inputs = (x, weight, gamma, beta)
    expected = reference.depthwise_block(*(tensor.double() for tensor in inputs), 2, 1)  # cast to FP32 inside
    assert_same(ops.launch_depthwise_block(*inputs, 2, 1), expected.float())


def test_depthwise_block_of_a_constant_group_is_its_shift():
    x, weight, gamma, beta = block_inputs(1, 4, 5, 5)
    inputs = (x, torch.zeros_like(weight), gamma, beta)
    expected = torch.nn.functional.gelu(beta).reshape(1, 4, 1, 1).expand(1, 4, 5, 5)
    assert_same(ops.launch_depthwise_block(*inputs, 2, 1), expected)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, which plays the GPU here
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_depthwise_block_keeps_a_nan_in_its_group(value):
    x, weight, gamma, beta = block_inputs(1, 4, 5, 5)
    x[0, 1, 2, 2] = value
    inputs = (x, weight, gamma, beta)
    actual = ops.launch_depthwise_block(*inputs, 2, 1)
    assert actual[0, :2].isnan().all()
    assert_same(actual[0, 2:], reference.depthwise_block(*inputs, 2, 1)[0, 2:])


def test_depthwise_block_reads_what_is_not_contiguous():
    x, weight, gamma, beta = block_inputs(2, 4, 5, 6)
    inputs = (x.transpose(2, 3), weight, gamma, beta)
    assert_same(ops.launch_depthwise_block(*inputs, 2, 1), reference.depthwise_block(*inputs, 2, 1))


@TYPES
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 1, 1, 1), (1, 3, 25, 27)], ids=str)
def test_preservation_gate(shape, per_channel, dtype):
    x, m, r = (noise(*shape, seed=seed).to(dtype) for seed in range(3))
    alpha = noise(1, shape[1], 1, 1).to(dtype) if per_channel else torch.tensor([0.7]).to(dtype)
    assert_same(ops.launch_preservation_gate(x, m, r, alpha), reference.preservation_gate(x, m, r, alpha))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # numpy's
def test_preservation_gate_with_extreme_values():
    values = torch.tensor([0.0, -0.0, 1e30, -1e30, 200.0, -200.0, float("inf"), float("-inf"), float("nan")])
    x, m = (grid.reshape(1, 1, 9, 9).contiguous() for grid in torch.meshgrid(values, values, indexing="ij"))
    alpha = torch.tensor([0.5])
    expected = reference.preservation_gate(x, m, torch.zeros_like(m), alpha)
    assert_same(ops.launch_preservation_gate(x, m, torch.zeros_like(m), alpha), expected)
    closed = ops.launch_preservation_gate(x, m.clamp(-1, 1), torch.zeros_like(m), torch.zeros(1))
    finite = x.isfinite() & m.isfinite()
    assert torch.equal(closed[finite], x[finite])  # at alpha 0 the gate is the identity


@pytest.mark.parametrize(
    ("classes", "grid", "size", "dtype"),
    [
        (1, (3, 4), (5, 7), torch.float32),
        (7, (1, 1), (3, 300), torch.float32),
        *((12, (5, 3), (13, 11), dtype) for dtype in ROUNDING),
        (5, (9, 8), (4, 3), torch.float32),
        (3, (6, 5), (6, 5), torch.float16),
    ],
)
def test_upsample_argmax(classes, grid, size, dtype):
    """The same label wherever the two best scores are further apart than rounding."""
    logits = noise(classes, *grid).to(dtype)
    labels = ops.launch_upsample_argmax(logits, *size)
    assert labels.dtype == torch.uint16
    scores = torch.nn.functional.interpolate(logits.float()[None], size, mode="bilinear")[0]  # (N, H, W)
    chosen = scores.gather(0, labels.long()[None])[0]
    assert (scores.amax(0) - chosen).max() < 1e-5
    assert (labels.int() == reference.upsample_argmax(logits, *size).int()).float().mean() > 0.99


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # numpy's
def test_upsample_argmax_of_equal_scores_and_nans():
    equal = torch.ones(4, 2, 2)
    assert not ops.launch_upsample_argmax(equal, 5, 5).int().any()  # the first of equals
    logits = noise(3, 4, 4)
    logits[1] = float("nan")
    expected = reference.upsample_argmax(logits, 8, 8).int()
    assert not (expected == 1).any()
    assert torch.equal(ops.launch_upsample_argmax(logits, 8, 8).int(), expected)
    assert not ops.launch_upsample_argmax(torch.full((3, 2, 2), float("nan")), 4, 4).int().any()
    large = noise(3, 4, 4, scale=1e30)
    assert torch.equal(
        ops.launch_upsample_argmax(large, 9, 9).int(), reference.upsample_argmax(large, 9, 9).int()
    )
