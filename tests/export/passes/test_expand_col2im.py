"""`Col2Im` as a transposed convolution, against torch's own `fold`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgemim.errors import EdgemimError
from edgemim.export.passes.expand_col2im import expand_col2im

# Image, block, stride, padding, dilation.
CASES = {
    "overlapping": ((6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "VOLO's, whose stride leaves one row over": ((8, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    "apart, not square": ((7, 9), (2, 3), (3, 3), (0, 0), (1, 1)),
    "dilated": ((9, 8), (3, 2), (2, 1), (2, 0), (2, 3)),
}


def _text(image, block, stride, padding, dilation, shape):
    return f"""
        g (float[{", ".join(map(str, shape))}] x) => (float[A, B, C, D] y)
        <int64[2] image = {{{image[0]}, {image[1]}}}, int64[2] block = {{{block[0]}, {block[1]}}}>
        {{ y = Col2Im <strides = [{stride[0]}, {stride[1]}], dilations = [{dilation[0]}, {dilation[1]}],
             pads = [{padding[0]}, {padding[1]}, {padding[0]}, {padding[1]}]> (x, image, block) }}
    """


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_computes_what_fold_computes(graph, run, case):
    image, block, stride, padding, dilation = case
    arguments = {"kernel_size": block, "stride": stride, "padding": padding, "dilation": dilation}
    columns = torch.nn.functional.unfold(torch.zeros(2, 3, *image), **arguments)
    x = torch.randn(columns.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.fold(x, output_size=image, **arguments)
    model = graph(_text(*case, shape=x.shape))
    model.graph[0].metadata_props["edgemim.module"] = "outlook.0.attn"
    expanded = expand_col2im(model)
    assert [node.op_type for node in expanded.graph] == ["Reshape", "ConvTranspose"]
    assert {node.metadata_props["edgemim.module"] for node in expanded.graph} == {"outlook.0.attn"}
    # At most nine numbers of size one are added, in another order.
    np.testing.assert_allclose(run(expanded, x=x.numpy())[0], expected.numpy(), atol=1e-6)


def test_sizes_that_follow_from_the_image_are_refused_by_name(graph):
    model = graph("""
        g (float[1, 9, 16] x, int64[2] image) => (float[A, B, C, D] y) <int64[2] block = {3, 3}>
        { y = Col2Im (x, image, block) }
    """)
    model.graph[0].metadata_props["edgemim.module"] = "outlook.0.attn"
    with pytest.raises(EdgemimError, match=r"op 'Col2Im' of module 'outlook.0.attn' computes its sizes"):
        expand_col2im(model)
