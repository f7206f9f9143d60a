//! Speed of the CPU convolutions in GFLOP/s, counting the operations of the direct method; medians.
//!
//! `cargo bench --bench conv_speed -- [threads] [name filter]`

use std::time::{Duration, Instant};

use srgan::device::cpu::{
    ConvShape, Ctx, GemmShape, Isa, Matrix, Pass, Pool, StoreTo, View, ViewMut, algorithm, conv2d, conv2d_input_grad,
    conv2d_weight_grad, gemm, gemm_scratch_len, scratch_len,
};

const BATCH: usize = 2;

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|t| t.parse().ok()).unwrap_or(2);
    let filter = args.next().unwrap_or_default();
    let pool = Pool::new(threads);
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    println!("{:?}, {threads} threads, batch {BATCH}, GFLOP/s", ctx.isa.kind());
    println!("{:24}{:>20}{:>20}{:>20}", "", "forward", "input grad", "weight grad");
    for (name, shape) in cases() {
        if name.contains(&filter) {
            let cells = [Pass::Forward, Pass::InputGrad, Pass::WeightGrad].map(|pass| {
                let flops = 2.0 * shape.macs() as f64;
                format!("{:.1} {:?}", flops / time(&ctx, &shape, pass).as_nanos() as f64, algorithm(&shape, pass))
            });
            println!("{name:24}{:>20}{:>20}{:>20}", cells[0], cells[1], cells[2]);
        }
    }
    if "linear".contains(&filter) {
        [2, 32].into_iter().for_each(|batch| linear(&ctx, batch));
    }
}

/// A linear layer 18432 → 1024: forward, input gradient, weight gradient, in GB/s of weights.
fn linear(ctx: &Ctx, batch: usize) {
    let (inputs, outputs) = (18432, 1024);
    let (x, w, d) = (vec![0.5; batch * inputs], vec![0.25; inputs * outputs], vec![0.125; batch * outputs]);
    let (x, w) = (Matrix::rows(&x, inputs), Matrix::rows(&w, inputs));
    let d = Matrix::rows(&d, outputs);
    let passes = [
        (GemmShape { m: batch, n: outputs, k: inputs }, x, w.transposed()),
        (GemmShape { m: batch, n: inputs, k: outputs }, d, w),
        (GemmShape { m: outputs, n: inputs, k: batch }, d.transposed(), x),
    ];
    let cells = passes.map(|(shape, a, b)| {
        let mut result = vec![0.0; shape.m * shape.n];
        let mut scratch = vec![0.0; gemm_scratch_len(&shape, ctx.pool.threads())];
        let sink = StoreTo(ViewMut::new(&mut result, [1, 1, shape.m, shape.n]));
        // SAFETY: the matrices are live buffers, and the results go to a buffer of their own.
        let time = median(|| unsafe { gemm(ctx, &shape, a, b, &sink, &mut scratch) });
        format!("{:.1} GB/s", (4 * inputs * outputs) as f64 / time.as_nanos() as f64)
    });
    println!("{:24}{:>20}{:>20}{:>20}", format!("linear, batch {batch}"), cells[0], cells[1], cells[2]);
}

fn cases() -> Vec<(String, ConvShape)> {
    let mut cases = Vec::new();
    let mut add = |name: &str, size: usize, in_ch: usize, out_ch: usize, ksize: usize, stride: usize, pad: usize| {
        let shape = ConvShape::square([BATCH, size, size, in_ch], out_ch, ksize, stride, pad);
        cases.push((format!("{name} {in_ch}>{out_ch} @{size}"), shape.expect("a valid shape")));
    };
    add("3x3", 32, 64, 64, 3, 1, 1);
    add("3x3", 64, 64, 256, 3, 1, 1);
    add("9x9", 128, 64, 4, 9, 1, 4);
    add("9x9", 128, 4, 64, 9, 1, 4);
    add("4x4s2", 64, 64, 128, 4, 2, 1);
    add("3x3s2", 64, 64, 64, 3, 2, 1);
    add("1x1", 32, 64, 64, 1, 1, 0);
    add("3x3", 16, 256, 256, 3, 1, 1);
    add("3x3", 8, 128, 128, 3, 1, 1);
    add("3x3 dense", 32, 96, 32, 3, 1, 1);
    add("4x4 last", 16, 512, 1, 4, 1, 1);
    for (ksize, dilation) in [(5, 1), (7, 3)] {
        let base = ConvShape::square([BATCH, 32, 32, 64], 64, ksize, 1, ksize / 2 * dilation).expect("a valid shape");
        let shape = ConvShape { dilation, depthwise: true, ..base }.with_out_size().expect("a valid shape");
        cases.push((format!("depthwise {ksize}x{ksize}d{dilation} 64 @32"), shape));
    }
    cases
}

fn time(ctx: &Ctx, s: &ConvShape, pass: Pass) -> Duration {
    let fill = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.37).sin()).collect() };
    let (in_sizes, out_sizes) = ([s.batch, s.in_h, s.in_w, s.in_ch], [s.batch, s.out_h, s.out_w, s.out_ch]);
    let (input, d_output) = (fill(in_sizes.iter().product()), fill(out_sizes.iter().product()));
    let weight = fill(s.weight_len());
    let mut result = vec![0.0; input.len().max(d_output.len()).max(weight.len())];
    let mut scratch = vec![0.0; scratch_len(s, pass, ctx.pool.threads())];
    let (input, d_output) = (View::new(&input, in_sizes), View::new(&d_output, out_sizes));
    median(|| {
        // SAFETY: the views are of live buffers, and the results go to a buffer of their own.
        unsafe {
            match pass {
                Pass::Forward => {
                    let sink = StoreTo(ViewMut::new(&mut result, out_sizes));
                    conv2d(ctx, s, input, &weight, &sink, &mut scratch);
                }
                Pass::InputGrad => {
                    let sink = StoreTo(ViewMut::new(&mut result, in_sizes));
                    conv2d_input_grad(ctx, s, d_output, &weight, &sink, &mut scratch);
                }
                Pass::WeightGrad => {
                    let d_weight = &mut result[..s.weight_len()];
                    conv2d_weight_grad(ctx, s, input, d_output, d_weight, &mut scratch);
                }
            }
        }
    })
}

fn median(mut run: impl FnMut()) -> Duration {
    run();
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_millis(250) || times.len() < 5 {
        let begin = Instant::now();
        run();
        times.push(begin.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}
