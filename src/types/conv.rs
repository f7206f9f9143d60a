//! The shape of a two-dimensional convolution.

/// Sizes of a convolution. Input `[batch, in_h, in_w, in_ch]`, weight `[out_ch, ksize_h, ksize_w, in_ch]`
/// (depthwise: `[in_ch, ksize_h, ksize_w, 1]` and `out_ch == in_ch`), output `[batch, out_h, out_w, out_ch]`,
/// zero padding on all sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub in_h: usize,
    /// Input columns.
    pub in_w: usize,
    /// Input channels.
    pub in_ch: usize,
    /// Output rows, see [`out_size`].
    pub out_h: usize,
    /// Output columns.
    pub out_w: usize,
    /// Output channels.
    pub out_ch: usize,
    /// Kernel rows.
    pub ksize_h: usize,
    /// Kernel columns.
    pub ksize_w: usize,
    /// Step between outputs, in both directions.
    pub stride: usize,
    /// Zeros around the input.
    pub pad: usize,
    /// Distance between the kernel's taps.
    pub dilation: usize,
    /// Each channel has its own kernel and no other channel's input.
    pub depthwise: bool,
}

/// The three computations of a convolution's training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Output from input and weight.
    Forward,
    /// Gradient of the input from the output's gradient and the weight.
    InputGrad,
    /// Gradient of the weight from the input and the output's gradient.
    WeightGrad,
}

/// Output size along one axis: ⌊(input + 2 pad − dilation (ksize − 1) − 1) / stride⌋ + 1, or none where the
/// kernel is larger than the padded input.
pub fn out_size(input: usize, ksize: usize, stride: usize, pad: usize, dilation: usize) -> Option<usize> {
    let span = dilation * ksize.checked_sub(1)? + 1;
    (input + 2 * pad).checked_sub(span)?.checked_div(stride).map(|steps| steps + 1)
}

impl ConvShape {
    /// A square convolution without dilation; none where the kernel is larger than the padded input.
    pub fn square(
        [batch, in_h, in_w, in_ch]: [usize; 4],
        out_ch: usize,
        ksize: usize,
        stride: usize,
        pad: usize,
    ) -> Option<ConvShape> {
        ConvShape {
            batch,
            in_h,
            in_w,
            in_ch,
            out_h: 0,
            out_w: 0,
            out_ch,
            ksize_h: ksize,
            ksize_w: ksize,
            stride,
            pad,
            dilation: 1,
            depthwise: false,
        }
        .with_out_size()
    }

    /// The shape with `out_h` and `out_w` computed from the rest; none where the kernel is larger than the
    /// padded input.
    pub fn with_out_size(self) -> Option<ConvShape> {
        let out_h = out_size(self.in_h, self.ksize_h, self.stride, self.pad, self.dilation)?;
        let out_w = out_size(self.in_w, self.ksize_w, self.stride, self.pad, self.dilation)?;
        Some(ConvShape { out_h, out_w, ..self })
    }

    /// Kernel taps.
    pub fn taps(&self) -> usize {
        self.ksize_h * self.ksize_w
    }

    /// Input channels that one output channel sees.
    pub fn weight_in_ch(&self) -> usize {
        if self.depthwise { 1 } else { self.in_ch }
    }

    /// Number of weights.
    pub fn weight_len(&self) -> usize {
        self.out_ch * self.taps() * self.weight_in_ch()
    }

    /// Multiplications with an addition of the direct method, for any of the three passes.
    pub fn macs(&self) -> u64 {
        (self.batch * self.out_h * self.out_w) as u64 * self.weight_len() as u64
    }

    /// The input row or column that output `o` sees through tap `k`, if it is not padding.
    #[inline(always)]
    pub(crate) fn source(&self, o: usize, k: usize, size: usize) -> Option<usize> {
        (o * self.stride + k * self.dilation).checked_sub(self.pad).filter(|&i| i < size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes_are_those_of_pytorch() {
        assert_eq!(out_size(32, 3, 1, 1, 1), Some(32));
        assert_eq!(out_size(64, 4, 2, 1, 1), Some(32));
        assert_eq!(out_size(32, 4, 1, 1, 1), Some(31));
        assert_eq!(out_size(7, 3, 2, 1, 1), Some(4));
        assert_eq!(out_size(32, 7, 1, 9, 3), Some(32));
        assert_eq!(out_size(1, 9, 1, 4, 1), Some(1));
        assert_eq!(out_size(2, 5, 1, 1, 1), None);
    }
}
