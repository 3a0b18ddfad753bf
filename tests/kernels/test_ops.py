"""The torch operators: the reference on a CPU, shapes for the compiler, gradients, and who calls them."""

from dataclasses import replace

import pytest
import torch

from ovsdino.kernels import ops, reference
from ovsdino.network.config import NANO
from ovsdino.network.structure_decoder import PreservationGate
from ovsdino.network.structure_encoder import DepthwiseBlock

SMALL = replace(NANO, backbone_width=6, gate_width=4, norm_groups=2)


def block_inputs(*, gradients=False):
    torch.manual_seed(0)
    shapes = ((2, 4, 5, 7), (4, 1, 3, 3), (4,), (4,))
    return tuple(torch.randn(shape, requires_grad=gradients) for shape in shapes)


def gate_inputs(*, gradients=False):
    torch.manual_seed(0)
    shapes = ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 1, 1))
    return tuple(torch.randn(shape, requires_grad=gradients) for shape in shapes)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_is_the_operator_on_its_weights(stride):
    block = DepthwiseBlock(4, groups=2, stride=stride)
    x = block_inputs()[0]
    actual = ops.depthwise_block(x, block.conv.weight, block[1].weight, block[1].bias, 2, stride)
    torch.testing.assert_close(actual, block(x), rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["scalar", "channel"])
def test_the_gate_is_the_operator_on_its_alpha(scale):
    gate = PreservationGate(replace(SMALL, gate_scale=scale, gate_init=0.3))
    x, m = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    expected = ops.preservation_gate(x, m, gate.residual(m), gate.alpha)
    torch.testing.assert_close(expected, gate(x, m), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the checks' own
def test_operators_pass_torchs_own_checks():
    """Schema, fake shapes against real ones, autograd registration."""
    for stride in (1, 2):
        torch.library.opcheck(ops.depthwise_block, (*block_inputs(gradients=True), 2, stride))
    torch.library.opcheck(ops.preservation_gate, gate_inputs(gradients=True))
    torch.library.opcheck(ops.upsample_argmax, (torch.randn(3, 4, 5), 7, 9))


def test_gradients_are_those_of_the_reference():
    for operator, compose, inputs, numbers in (
        (ops.depthwise_block, reference.depthwise_block, block_inputs, (2, 2)),
        (ops.preservation_gate, reference.preservation_gate, gate_inputs, ()),
    ):
        grads = []
        for function in (operator, compose):
            tensors = inputs(gradients=True)
            out = function(*tensors, *numbers)
            grads.append(torch.autograd.grad((out * out).sum(), tensors))
        for actual, expected in zip(*grads, strict=True):
            torch.testing.assert_close(actual, expected)


def test_wrong_shapes_are_refused_by_name():
    x, weight, gamma, beta = (tensor.to("meta") for tensor in block_inputs())
    with pytest.raises(RuntimeError, match="4 channels do not make 3 equal groups"):
        ops.depthwise_block(x, weight, gamma, beta, 3, 1)
    x, m, r, _ = (tensor.to("meta") for tensor in gate_inputs())
    with pytest.raises(RuntimeError, match="alpha has 2 values, expected 1 or C"):
        ops.preservation_gate(x, m, r, torch.empty(2, device="meta"))
    with pytest.raises(RuntimeError, match="65536 classes, labels hold 65535"):
        ops.upsample_argmax(torch.empty(65536, 1, 1, device="meta"), 2, 2)


def test_upsample_argmax_is_the_argmax_of_the_upsampled_scores():
    logits = torch.randn(9, 5, 4)
    scores = torch.nn.functional.interpolate(logits[None], (13, 11), mode="bilinear")[0]
    labels = ops.upsample_argmax(logits, 13, 11)
    assert labels.dtype == torch.uint16
    assert torch.equal(labels.long(), scores.argmax(0))


def test_a_cpu_and_training_do_without_the_kernels():
    assert not ops.usable(torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernels_on_a_gpu(dtype):
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    close = {"rtol": tolerance, "atol": tolerance}
    block = [tensor.to("cuda", dtype) for tensor in block_inputs()]
    expected = reference.depthwise_block(*block, 2, 2)
    torch.testing.assert_close(ops.depthwise_block(*block, 2, 2), expected, **close)
    gate = [tensor.to("cuda", dtype) for tensor in gate_inputs()]
    torch.testing.assert_close(ops.preservation_gate(*gate), reference.preservation_gate(*gate), **close)
    logits = torch.randn(150, 28, 28, device="cuda").to(dtype)
    same = ops.upsample_argmax(logits, 448, 333).int() == reference.upsample_argmax(logits, 448, 333).int()
    assert same.float().mean() > 0.999


@pytest.mark.gpu
def test_the_network_takes_the_kernels_on_a_gpu():
    block = DepthwiseBlock(4, groups=2).cuda()
    x = torch.randn(2, 4, 9, 9, device="cuda")
    plain = block(x)
    with torch.no_grad():
        assert ops.usable(x)
        torch.testing.assert_close(block(x), plain.detach(), rtol=2e-5, atol=2e-5)
