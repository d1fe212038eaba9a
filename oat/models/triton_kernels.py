"""Kernels in Triton for what follows a convolution; `oat.models.kernels` launches them.

Features are channels last. A tile is `BLOCK_P` pixels of one image by `BLOCK_C` channels, so that
what belongs to an image or a channel is read once a tile. A *group* is the share of one image's
pixels that is summed at once; all groups have the same size. Sums have a fixed order. Arithmetic is
in float32.

A kernel whose ``FILM``, ``ADD`` or ``NORM`` is false reads nothing from the pointers for it.
"""

import triton
import triton.language as tl


@triton.jit
def _relu_mask(g, out):
    return tl.where(out <= 0, 0.0, g)  # what is no number stays none, as in torch


@triton.jit
def _film_row(index_ptr, row, film_stride, INDEXED: tl.constexpr):
    """Return where the scale and shift of an image begin."""
    if INDEXED:
        row = tl.load(index_ptr + row).to(tl.int32)
    return row * film_stride


@triton.jit(do_not_specialize=["second_from", "chunks"])
def apply(
    x_ptr,
    add_ptr,
    out_ptr,
    factor_ptr,
    summand_ptr,
    scale_ptr,
    shift_ptr,
    second_from,
    index_ptr,
    film_stride,
    pixels,
    channels,
    chunks,
    NORM: tl.constexpr,
    FILM: tl.constexpr,
    INDEXED: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write ``relu((x * factor + summand) * scale + shift + add)`` of a tile."""
    row = tl.program_id(0) // chunks
    p = (tl.program_id(0) % chunks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = row.to(tl.int64) * pixels * channels + (p[:, None] * channels + c[None, :])
    ok_c = c < channels if MASKED else None
    ok = (p < pixels)[:, None] & (c < channels)[None, :] if MASKED else None
    value = tl.load(x_ptr + at, mask=ok).to(tl.float32)
    if NORM:
        own = (row >= second_from).to(tl.int32) * channels + c
        factor = tl.load(factor_ptr + own, mask=ok_c)
        value = value * factor[None, :] + tl.load(summand_ptr + own, mask=ok_c)[None, :]
    if FILM:
        own = _film_row(index_ptr, row, film_stride, INDEXED) + c
        scale = tl.load(scale_ptr + own, mask=ok_c)
        value = value * scale[None, :] + tl.load(shift_ptr + own, mask=ok_c)[None, :]
    if ADD:
        value += tl.load(add_ptr + at, mask=ok).to(tl.float32)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["chunks"])
def apply_backward(
    grad_ptr,
    out_ptr,
    grad_x_ptr,
    grad_add_ptr,
    scale_ptr,
    index_ptr,
    film_stride,
    pixels,
    channels,
    chunks,
    FILM: tl.constexpr,
    INDEXED: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write a tile's gradients of x, and of what was added, with nothing normalised."""
    row = tl.program_id(0) // chunks
    p = (tl.program_id(0) % chunks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = row.to(tl.int64) * pixels * channels + (p[:, None] * channels + c[None, :])
    ok_c = c < channels if MASKED else None
    ok = (p < pixels)[:, None] & (c < channels)[None, :] if MASKED else None
    grad = tl.load(grad_ptr + at, mask=ok).to(tl.float32)
    if RELU:
        grad = _relu_mask(grad, tl.load(out_ptr + at, mask=ok).to(tl.float32))
    if ADD:
        tl.store(grad_add_ptr + at, grad.to(grad_add_ptr.dtype.element_ty), mask=ok)
    if FILM:
        own = _film_row(index_ptr, row, film_stride, INDEXED) + c
        grad *= tl.load(scale_ptr + own, mask=ok_c)[None, :]
    tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["groups"])
def moments(
    x_ptr,
    mean_ptr,
    square_ptr,
    pixels,
    channels,
    groups,
    span,
    MASKED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write a group's mean, and its sum of squared distances from it, of each channel."""
    group = tl.program_id(0)
    first = (group % groups) * span
    base = (group // groups).to(tl.int64) * pixels * channels
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_c = c < channels if MASKED else None
    # distances from the group's first pixel: sums of squares of small numbers lose little
    pivot = tl.load(x_ptr + base + first * channels + c, mask=ok_c).to(tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for start in range(0, span, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        at = base + ((first + p)[:, None] * channels + c[None, :])
        ok = (p < span)[:, None] & (c < channels)[None, :] if MASKED else None
        away = tl.load(x_ptr + at, mask=ok).to(tl.float32) - pivot[None, :]
        if MASKED:
            away = tl.where(ok, away, 0.0)
        total += away
        squares += away * away
    mean = tl.sum(total, 0) / span
    out = group * channels + c
    tl.store(mean_ptr + out, pivot + mean, mask=ok_c)
    tl.store(square_ptr + out, tl.sum(squares, 0) - mean * mean * span, mask=ok_c)


@triton.jit(do_not_specialize=["first", "end", "momentum", "eps"])
def statistics(
    mean_ptr,
    square_ptr,
    weight_ptr,
    bias_ptr,
    running_mean_ptr,
    running_var_ptr,
    center_ptr,
    rate_ptr,
    factor_ptr,
    summand_ptr,
    first,
    end,
    span,
    channels,
    momentum,
    eps,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the moments of a batch norm's groups; update its running statistics.

    Writes mean (center), 1 / standard deviation (rate), and the affine map that the norm is.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_c = c < channels
    total = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    for start in range(first, end, BLOCK_G):
        g = start + tl.arange(0, BLOCK_G)
        ok = (g < end)[:, None] & ok_c[None, :]
        total += tl.load(mean_ptr + g[:, None] * channels + c[None, :], mask=ok, other=0.0)
    mean = tl.sum(total, 0) / (end - first)
    total = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    for start in range(first, end, BLOCK_G):
        g = start + tl.arange(0, BLOCK_G)
        ok = (g < end)[:, None] & ok_c[None, :]
        at = g[:, None] * channels + c[None, :]
        away = tl.load(mean_ptr + at, mask=ok, other=0.0) - mean[None, :]
        total += tl.where(
            ok, tl.load(square_ptr + at, mask=ok, other=0.0) + span * away * away, 0.0
        )
    count = ((end - first) * span).to(tl.float32)
    square = tl.sum(total, 0)
    rate = 1 / tl.sqrt(square / count + eps)
    factor = tl.load(weight_ptr + c, mask=ok_c) * rate
    tl.store(center_ptr + c, mean, mask=ok_c)
    tl.store(rate_ptr + c, rate, mask=ok_c)
    tl.store(factor_ptr + c, factor, mask=ok_c)
    tl.store(summand_ptr + c, tl.load(bias_ptr + c, mask=ok_c) - mean * factor, mask=ok_c)
    old = tl.load(running_mean_ptr + c, mask=ok_c)
    tl.store(running_mean_ptr + c, old + momentum * (mean - old), mask=ok_c)
    old = tl.load(running_var_ptr + c, mask=ok_c)
    tl.store(running_var_ptr + c, old + momentum * (square / (count - 1) - old), mask=ok_c)


@triton.jit(do_not_specialize=["second_from", "groups"])
def gradient_sums(
    grad_ptr,
    out_ptr,
    x_ptr,
    center_ptr,
    rate_ptr,
    plain_ptr,
    weighted_ptr,
    second_from,
    pixels,
    channels,
    groups,
    span,
    RELU: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write a group's sums of the gradient, and of the gradient times the normalised features."""
    group = tl.program_id(0)
    row = group // groups
    base = row.to(tl.int64) * pixels * channels
    first = (group % groups) * span
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_c = c < channels if MASKED else None
    own = (row >= second_from).to(tl.int32) * channels + c
    center, rate = tl.load(center_ptr + own, mask=ok_c), tl.load(rate_ptr + own, mask=ok_c)
    plain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    weighted = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for start in range(0, span, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        at = base + ((first + p)[:, None] * channels + c[None, :])
        ok = (p < span)[:, None] & (c < channels)[None, :] if MASKED else None
        grad = tl.load(grad_ptr + at, mask=ok).to(tl.float32)
        if RELU:
            grad = _relu_mask(grad, tl.load(out_ptr + at, mask=ok).to(tl.float32))
        if MASKED:
            grad = tl.where(ok, grad, 0.0)
        normal = (tl.load(x_ptr + at, mask=ok).to(tl.float32) - center[None, :]) * rate[None, :]
        plain += grad
        weighted += tl.where(ok, grad * normal, 0.0) if MASKED else grad * normal
    out = group * channels + c
    tl.store(plain_ptr + out, tl.sum(plain, 0), mask=ok_c)
    tl.store(weighted_ptr + out, tl.sum(weighted, 0), mask=ok_c)


@triton.jit(do_not_specialize=["first", "end", "groups"])
def parameter_gradients(
    plain_ptr,
    weighted_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    grad_scale_ptr,
    grad_shift_ptr,
    first,
    end,
    groups,
    index_ptr,
    film_stride,
    channels,
    FILM: tl.constexpr,
    INDEXED: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the sums of the groups of a batch norm's rows: gradients of it and of its rows' FiLM."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_c = c < channels
    weight = tl.load(weight_ptr + c, mask=ok_c, other=0.0)
    bias = tl.load(bias_ptr + c, mask=ok_c, other=0.0)
    total_weight = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    total_bias = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    for start in range(first, end, BLOCK_G):
        row = start + tl.arange(0, BLOCK_G)
        ok = (row < end)[:, None] & ok_c[None, :]
        plain = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
        weighted = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
        for group in range(groups):
            at = (row * groups + group)[:, None] * channels + c[None, :]
            plain += tl.load(plain_ptr + at, mask=ok, other=0.0)
            weighted += tl.load(weighted_ptr + at, mask=ok, other=0.0)
        if FILM:
            at = row[:, None] * channels + c[None, :]
            tl.store(grad_shift_ptr + at, plain, mask=ok)
            of_scale = weight[None, :] * weighted + bias[None, :] * plain
            tl.store(grad_scale_ptr + at, of_scale, mask=ok)
            code = row
            if INDEXED:
                code = tl.load(index_ptr + row, mask=row < end, other=0).to(tl.int32)
            own = code[:, None] * film_stride + c[None, :]
            scale = tl.load(scale_ptr + own, mask=ok, other=0.0)
            plain *= scale
            weighted *= scale
        total_bias += plain
        total_weight += weighted
    tl.store(grad_weight_ptr + c, tl.sum(total_weight, 0), mask=ok_c)
    tl.store(grad_bias_ptr + c, tl.sum(total_bias, 0), mask=ok_c)


@triton.jit(do_not_specialize=["rows"])
def sum_by_code(
    index_ptr,
    one_ptr,
    other_ptr,
    one_sum_ptr,
    other_sum_ptr,
    rows,
    channels,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the rows of two tensors that have one code."""
    code = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok_c = c < channels
    one = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    other = tl.zeros((BLOCK_G, BLOCK_C), tl.float32)
    for start in range(0, rows, BLOCK_G):
        row = start + tl.arange(0, BLOCK_G)
        mine = tl.load(index_ptr + row, mask=row < rows, other=-1) == code
        ok = mine[:, None] & ok_c[None, :]
        at = row[:, None] * channels + c[None, :]
        one += tl.load(one_ptr + at, mask=ok, other=0.0)
        other += tl.load(other_ptr + at, mask=ok, other=0.0)
    tl.store(one_sum_ptr + code * channels + c, tl.sum(one, 0), mask=ok_c)
    tl.store(other_sum_ptr + code * channels + c, tl.sum(other, 0), mask=ok_c)


@triton.jit(do_not_specialize=["second_from", "first_count", "second_count", "chunks"])
def normalise_backward(
    grad_ptr,
    out_ptr,
    x_ptr,
    center_ptr,
    rate_ptr,
    factor_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    scale_ptr,
    grad_x_ptr,
    grad_add_ptr,
    second_from,
    first_count,
    second_count,
    index_ptr,
    film_stride,
    pixels,
    channels,
    chunks,
    FILM: tl.constexpr,
    INDEXED: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write a tile's gradients of x, and of what was added."""
    row = tl.program_id(0) // chunks
    p = (tl.program_id(0) % chunks) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = row.to(tl.int64) * pixels * channels + (p[:, None] * channels + c[None, :])
    ok_c = c < channels if MASKED else None
    ok = (p < pixels)[:, None] & (c < channels)[None, :] if MASKED else None
    grad = tl.load(grad_ptr + at, mask=ok).to(tl.float32)
    if RELU:
        grad = _relu_mask(grad, tl.load(out_ptr + at, mask=ok).to(tl.float32))
    if ADD:
        tl.store(grad_add_ptr + at, grad.to(grad_add_ptr.dtype.element_ty), mask=ok)
    if FILM:
        own = _film_row(index_ptr, row, film_stride, INDEXED) + c
        grad *= tl.load(scale_ptr + own, mask=ok_c)[None, :]
    second = row >= second_from
    count = tl.where(second, second_count, first_count).to(tl.float32)
    own = second.to(tl.int32) * channels + c
    center, rate = tl.load(center_ptr + own, mask=ok_c), tl.load(rate_ptr + own, mask=ok_c)
    mean = tl.load(grad_bias_ptr + own, mask=ok_c) / count
    slope = tl.load(grad_weight_ptr + own, mask=ok_c) / count
    normal = (tl.load(x_ptr + at, mask=ok).to(tl.float32) - center[None, :]) * rate[None, :]
    factor = tl.load(factor_ptr + own, mask=ok_c)
    grad = factor[None, :] * (grad - mean[None, :] - normal * slope[None, :])
    tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=ok)
