//! The convolution's three passes.

use super::{ConvShape, Ctx, Pass, Tile, TileSink, View};

/// Floats of scratch memory that a pass needs; what they hold before the call does not matter.
pub fn scratch_len(shape: &ConvShape, pass: Pass, threads: usize) -> usize {
    match pass {
        Pass::Forward => threads * shape.out_w * shape.out_ch,
        Pass::InputGrad => threads * shape.in_w * shape.in_ch,
        Pass::WeightGrad => 0,
    }
}

/// A pointer that items of work share; each writes its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: items write disjoint parts.
unsafe impl Sync for Shared {}
impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// The convolution `output = input * weight`, handed to `sink` in tiles.
///
/// # Safety
/// The view's elements must be readable and unchanged during the call.
pub unsafe fn conv2d(
    ctx: &Ctx,
    shape: &ConvShape,
    input: View,
    weight: &[f32],
    sink: &dyn TileSink,
    scratch: &mut [f32],
) {
    let s = *shape;
    assert!(scratch.len() >= scratch_len(&s, Pass::Forward, ctx.pool.threads()));
    let (row, scratch) = (s.out_w * s.out_ch, Shared(scratch.as_mut_ptr()));
    ctx.pool.run(s.batch * s.out_h, &|item, worker| {
        let (n, y) = (item / s.out_h, item % s.out_h);
        // SAFETY: each worker has its own row of scratch.
        let out = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * row), row) };
        out.fill(0.0);
        for ky in 0..s.ksize_h {
            let Some(iy) = s.source(y, ky, s.in_h) else { continue };
            for x in 0..s.out_w {
                for kx in 0..s.ksize_w {
                    let Some(ix) = s.source(x, kx, s.in_w) else { continue };
                    // SAFETY: a pixel of the input.
                    let pixel = unsafe { std::slice::from_raw_parts(input.at(n, iy, ix), s.in_ch) };
                    for (o, out) in out[x * s.out_ch..][..s.out_ch].iter_mut().enumerate() {
                        let w = &weight[(o * s.taps() + ky * s.ksize_w + kx) * s.weight_in_ch()..][..s.weight_in_ch()];
                        let from = if s.depthwise { &pixel[o..=o] } else { pixel };
                        *out += w.iter().zip(from).map(|(a, b)| a * b).sum::<f32>();
                    }
                }
            }
        }
        let (row_stride, pixels, channels) = (s.out_ch, s.out_w, s.out_ch);
        sink.store(&Tile { data: out.as_mut_ptr(), row_stride, n, y, x0: 0, pixels, c0: 0, channels });
    });
}

/// The gradient of [`conv2d`] by its input, handed to `sink` in tiles of the input's shape.
///
/// # Safety
/// The view's elements must be readable and unchanged during the call.
pub unsafe fn conv2d_input_grad(
    ctx: &Ctx,
    shape: &ConvShape,
    d_output: View,
    weight: &[f32],
    sink: &dyn TileSink,
    scratch: &mut [f32],
) {
    let s = *shape;
    assert!(scratch.len() >= scratch_len(&s, Pass::InputGrad, ctx.pool.threads()));
    let (row, scratch) = (s.in_w * s.in_ch, Shared(scratch.as_mut_ptr()));
    ctx.pool.run(s.batch * s.in_h, &|item, worker| {
        let (n, iy) = (item / s.in_h, item % s.in_h);
        // SAFETY: each worker has its own row of scratch.
        let out = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * row), row) };
        out.fill(0.0);
        for (ky, y) in (0..s.ksize_h).flat_map(|ky| (0..s.out_h).map(move |y| (ky, y))) {
            if s.source(y, ky, s.in_h) != Some(iy) {
                continue;
            }
            for (x, kx) in (0..s.out_w).flat_map(|x| (0..s.ksize_w).map(move |kx| (x, kx))) {
                let Some(ix) = s.source(x, kx, s.in_w) else { continue };
                // SAFETY: a pixel of the output's gradient.
                let pixel = unsafe { std::slice::from_raw_parts(d_output.at(n, y, x), s.out_ch) };
                let to = &mut out[ix * s.in_ch..][..s.in_ch];
                for (o, d) in pixel.iter().enumerate() {
                    let w = &weight[(o * s.taps() + ky * s.ksize_w + kx) * s.weight_in_ch()..][..s.weight_in_ch()];
                    let to = if s.depthwise { &mut to[o..=o] } else { &mut *to };
                    to.iter_mut().zip(w).for_each(|(t, w)| *t += d * w);
                }
            }
        }
        let (row_stride, pixels, channels) = (s.in_ch, s.in_w, s.in_ch);
        sink.store(&Tile { data: out.as_mut_ptr(), row_stride, n, y: iy, x0: 0, pixels, c0: 0, channels });
    });
}

/// The gradient of [`conv2d`] by its weight, written to `d_weight` (O,kh,kw,I).
///
/// # Safety
/// The views' elements must be readable and unchanged during the call.
pub unsafe fn conv2d_weight_grad(
    ctx: &Ctx,
    shape: &ConvShape,
    input: View,
    d_output: View,
    d_weight: &mut [f32],
    scratch: &mut [f32],
) {
    let s = *shape;
    assert!(scratch.len() >= scratch_len(&s, Pass::WeightGrad, ctx.pool.threads()));
    let part = s.taps() * s.weight_in_ch();
    assert!(d_weight.len() == s.weight_len());
    let d_weight = Shared(d_weight.as_mut_ptr());
    ctx.pool.run(s.out_ch, &|o, _| {
        // SAFETY: each item owns one output channel's weights.
        let dw = unsafe { std::slice::from_raw_parts_mut(d_weight.get().add(o * part), part) };
        dw.fill(0.0);
        for (n, y, ky) in
            (0..s.batch).flat_map(|n| (0..s.out_h).flat_map(move |y| (0..s.ksize_h).map(move |ky| (n, y, ky))))
        {
            let Some(iy) = s.source(y, ky, s.in_h) else { continue };
            for (x, kx) in (0..s.out_w).flat_map(|x| (0..s.ksize_w).map(move |kx| (x, kx))) {
                let Some(ix) = s.source(x, kx, s.in_w) else { continue };
                // SAFETY: pixels of the input and of the output's gradient.
                let (pixel, d) =
                    unsafe { (std::slice::from_raw_parts(input.at(n, iy, ix), s.in_ch), *d_output.at(n, y, x).add(o)) };
                let from = if s.depthwise { &pixel[o..=o] } else { pixel };
                let to = &mut dw[(ky * s.ksize_w + kx) * s.weight_in_ch()..][..s.weight_in_ch()];
                to.iter_mut().zip(from).for_each(|(t, v)| *t += d * v);
            }
        }
    });
}
