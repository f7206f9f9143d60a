//! Kernels that are right.

use super::*;
use crate::device::cuda::driver::Work;

/// Sum of a block: shuffles within a warp, shared memory among warps.
const BLOCK_SUM: &str = "
  SHARED(float, part, [8]);
  float sum = 0.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < a.n; i += gridDim.x * blockDim.x) sum += a.x[i];
  for (int o = 16; o > 0; o /= 2) sum += __shfl_down_sync(0xffffffffu, sum, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  float total = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
  for (int o = 16; o > 0; o /= 2) total += __shfl_xor_sync(0xffffffffu, total, o);
  if (threadIdx.x == 0) a.out[blockIdx.x] = total;";

#[test]
fn block_sums_are_the_same_in_every_order_and_on_any_number_of_os_threads() {
    let x = noise(10_007, 1);
    let case = Case { grid: [8, 1, 1], x: &x, n: x.len(), out: 8, ..Case::block(256, BLOCK_SUM) };
    let of_block = |block| x.iter().enumerate().filter(move |(i, _)| i / 256 % 8 == block);
    let want: Vec<f64> = (0..8).map(|block| of_block(block).map(|(_, &v)| f64::from(v)).sum()).collect();
    let first = case.run(HostOptions { os_threads: 1, ..HostOptions::default() }).unwrap();
    assert_close(&first, &want, 1e-4);
    for order in ORDERS {
        for os_threads in [1, 3] {
            assert_eq!(case.run(HostOptions { os_threads, ..ordered(order) }).unwrap(), first);
        }
    }
    let portable = HostOptions { portable_fibers: true, ..HostOptions::default() };
    assert_eq!(case.run(portable).unwrap(), first);
}

const TILED_PRODUCT: &str = "
  DYNAMIC_SHARED(float, tiles);
  float* x = tiles;
  float* y = tiles + 256;
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int row = blockIdx.y * 16 + ty, column = blockIdx.x * 16 + tx;
  float sum = 0.f;
  for (int k = 0; k < a.n; k += 16) {
    x[ty * 16 + tx] = a.x[row * a.n + k + tx];
    y[ty * 16 + tx] = a.y[(k + ty) * a.n + column];
    __syncthreads();
    for (int i = 0; i < 16; ++i) sum += x[ty * 16 + i] * y[i * 16 + tx];
    __syncthreads();
  }
  a.out[row * a.n + column] = sum;";

fn product(x: &[f64], y: &[f64], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let at = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        (0..inner).map(|k| x[row * inner + k] * y[k * columns + column]).sum()
    };
    (0..rows * columns).map(at).collect()
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn a_tiled_product_in_dynamic_shared_memory() {
    const N: usize = 64;
    let (x, y) = (noise(N * N, 2), noise(N * N, 3));
    let want = product(&widen(&x), &widen(&y), [N; 3]);
    let case = Case {
        grid: [4, 4, 1],
        block: [16, 16, 1],
        shared_bytes: 2048,
        x: &x,
        y: &y,
        n: N,
        out: N * N,
        body: TILED_PRODUCT,
    };
    for order in ORDERS {
        assert_close(&case.run(ordered(order)).unwrap(), &want, 1e-5);
    }
}

/// The nearest number of 8 mantissa bits, of two the even one: by distance, other than the kernels' carry.
fn bf16(x: f32) -> f64 {
    let below = x.to_bits() & 0xffff_0000;
    let candidates = [below, below + 0x1_0000].map(|bits| f64::from(f32::from_bits(bits)));
    let [low, high] = candidates.map(|c| (c - f64::from(x)).abs());
    let low_is_odd = (below >> 16) % 2 == 1;
    candidates[usize::from(high < low || high == low && low_is_odd)]
}

/// The 10 mantissa bits of tf32; the rest is cut off.
fn tf32(x: f32) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let unit = (f64::from(x).abs().log2().floor() - 10.0).exp2();
    (f64::from(x) / unit).trunc() * unit
}

const ROUND_TO_BF16: &str = "
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a.x[threadIdx.x], a.y[threadIdx.x]);
  a.out[2 * threadIdx.x] = __bfloat162float(pair.x);
  a.out[2 * threadIdx.x + 1] = __bfloat1622float2(pair).y;";

#[test]
fn bf16_rounds_to_nearest_even() {
    const STEP: f32 = 1.0 / 128.0;
    let mut x = noise(128, 4);
    // Ties, to the number below and to the one above; their neighbours; a carry into the exponent.
    let tie = 1.0 + STEP / 2.0;
    x[..6].copy_from_slice(&[tie, tie + STEP, -tie, tie.next_up(), tie.next_down(), 1.999]);
    let y = vec![f32::NAN; 128];
    let case = Case { x: &x, y: &y, out: 256, ..Case::block(128, ROUND_TO_BF16) };
    let got = case.run(HostOptions::default()).unwrap();
    assert_eq!(got[0], 1.0);
    assert_eq!(got[2], 1.0 + 2.0 * STEP);
    for (i, &x) in x.iter().enumerate() {
        assert_eq!(f64::from(got[2 * i]), bf16(x), "of {x}");
        assert!(got[2 * i + 1].is_nan());
    }
}

/// One warp, fragments loaded as PTX's manual lays them out.
const BF16_PRODUCT: &str = "
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  auto pair = [](float low, float high) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(two.x) | unsigned(__bfloat16_as_ushort(two.y)) << 16;
  };
  auto row = [&](int r, int k) { return pair(a.x[r * 16 + k], a.x[r * 16 + k + 1]); };
  auto column = [&](int k, int c) { return pair(a.y[k * 8 + c], a.y[(k + 1) * 8 + c]); };
  const unsigned x[4] = {row(g, 2 * t), row(g + 8, 2 * t), row(g, 2 * t + 8), row(g + 8, 2 * t + 8)};
  const unsigned y[2] = {column(2 * t, g), column(2 * t + 8, g)};
  float c[4] = {1.f, 1.f, 1.f, 1.f};
  mma_m16n8k16_bf16(c, x, y);
  for (int i = 0; i < 4; ++i) a.out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];";

const TF32_PRODUCT: &str = "
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  auto row = [&](int r, int k) { return __float_as_uint(a.x[r * 8 + k]); };
  auto column = [&](int k, int c) { return __float_as_uint(a.y[k * 8 + c]); };
  const unsigned x[4] = {row(g, t), row(g + 8, t), row(g, t + 4), row(g + 8, t + 4)};
  const unsigned y[2] = {column(t, g), column(t + 4, g)};
  float c[4] = {1.f, 1.f, 1.f, 1.f};
  mma_m16n8k8_tf32(c, x, y);
  for (int i = 0; i < 4; ++i) a.out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];";

#[test]
fn tensor_core_products_are_products_of_rounded_factors() {
    for (body, inner, round) in [(BF16_PRODUCT, 16, bf16 as fn(f32) -> f64), (TF32_PRODUCT, 8, tf32)] {
        let (x, y) = (noise(16 * inner, 5), noise(inner * 8, 6));
        let [x_rounded, y_rounded] = [&x, &y].map(|v| v.iter().map(|&v| round(v)).collect::<Vec<_>>());
        let want: Vec<_> = product(&x_rounded, &y_rounded, [16, inner, 8]).iter().map(|v| v + 1.0).collect();
        for order in ORDERS {
            let case = Case { x: &x, y: &y, out: 128, ..Case::block(32, body) };
            assert_close(&case.run(ordered(order)).unwrap(), &want, 2e-6);
        }
    }
}

const WARP_FUNCTIONS: &str = "
  const int lane = threadIdx.x;
  float* out = a.out + lane * 8;
  out[0] = __shfl_sync(0xffffffffu, lane, 3, 8);
  out[1] = __shfl_up_sync(0xffffffffu, lane, 2, 8);
  out[2] = __shfl_down_sync(0xffffffffu, lane, 2, 8);
  out[3] = __shfl_xor_sync(0xffffffffu, lane, 8, 8);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  out[4] = __popc(__ballot_sync(half, lane % 5 == 0));
  out[5] = __any_sync(half, lane == 20);
  out[6] = __all_sync(half, lane >= 16);
  // Halves that have called a different number of functions meet again.
  double wide = lane;
  if (lane < 16) wide = __shfl_sync(0xffffu, wide, 1);
  __syncwarp();
  out[7] = __shfl_xor_sync(0xffffffffu, wide, 16);";

#[test]
fn warp_functions_keep_to_segments_and_masks() {
    let case = Case { out: 256, ..Case::block(32, WARP_FUNCTIONS) };
    for order in ORDERS {
        let got = case.run(ordered(order)).unwrap();
        for (lane, got) in got.chunks_exact(8).enumerate() {
            let (segment, within) = (lane / 8 * 8, lane % 8);
            let high = lane >= 16;
            let want = [
                segment + 3,
                if within >= 2 { lane - 2 } else { lane },
                if within < 6 { lane + 2 } else { lane },
                // A later segment is not read, an earlier one is.
                if lane & 8 == 0 { lane } else { lane - 8 },
                // 0, 5, 10 and 15; 20, 25 and 30.
                if high { 3 } else { 4 },
                usize::from(high),
                usize::from(high),
                if high { 1 } else { lane + 16 },
            ];
            assert_eq!(got, want.map(|v| v as f32), "lane {lane}");
        }
    }
}

#[test]
fn threads_that_return_early_are_not_waited_for() {
    let body = "
  if (threadIdx.x % 32 < 4 || threadIdx.x >= 64) return;
  __syncthreads();
  a.out[threadIdx.x] = __popc(__ballot_sync(0xffffffffu, 1));
  __syncwarp();
  __syncthreads();";
    for order in ORDERS {
        let got = Case::block(70, body).run(ordered(order)).unwrap();
        for (thread, &got) in got.iter().enumerate() {
            let stays = thread % 32 >= 4 && thread < 64;
            assert_eq!(got.to_bits(), if stays { 28f32.to_bits() } else { u32::MAX }, "thread {thread}");
        }
    }
}

#[test]
fn random_orders_come_from_the_seed() {
    let body = "
  SHARED(int, turns);
  if (threadIdx.x == 0) turns = 0;
  __syncthreads();
  a.out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(&turns, 1);";
    let case = Case { grid: [16, 1, 1], out: 16 * 64, ..Case::block(64, body) };
    let run = |seed, os_threads| case.run(HostOptions { os_threads, ..ordered(ThreadOrder::Random(seed)) }).unwrap();
    let first = run(1, 1);
    assert_eq!(run(1, 4), first);
    assert_ne!(run(2, 1), first);
    assert_ne!(first[..64], first[64..128], "blocks have different orders");
}

#[test]
fn copies_are_there_after_the_wait_for_their_group() {
    let body = "
  SHARED(float4, tile, [2]);
  if (threadIdx.x == 0) {
    copy_async<16>(&tile[0], a.x);
    copy_async_commit();
    copy_async<8>(&tile[1].z, a.x + 6);
    copy_async<8>(&tile[1].x, a.x, false);
    copy_async_commit();
    copy_async_wait<1>();
    a.out[0] = tile[0].y, a.out[1] = tile[1].w;
    copy_async_wait<0>();
    a.out[2] = tile[1].w, a.out[3] = tile[1].y;
  }";
    let case = Case { x: &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], ..Case::block(4, body) };
    let got = case.run(HostOptions::default()).unwrap();
    assert_eq!((got[0], got[2], got[3]), (1.0, 7.0, 0.0));
    assert!(got[1].is_nan());
}

#[test]
fn a_graph_replays_its_launches_in_order() {
    let mut driver = HostDriver::new(&cache(), HostOptions::default()).unwrap();
    let modules = [module(32, "a.out[threadIdx.x] = 1.f;"), module(32, "a.out[threadIdx.x] *= 3.f;")];
    let mut steps = Vec::new();
    let functions = driver.compile(&modules, &mut |compiling| steps.push(compiling)).unwrap();
    // An earlier run of the tests may have built them.
    let (first, last) = (steps[0], steps[steps.len() - 1]);
    assert_eq!((first.total, first.done, last.done), (2, first.cached, 2), "{steps:?}");
    assert_eq!(steps.len(), 3 - first.cached);
    let out = driver.alloc(128).unwrap();
    let args = [0, 0, out.0, 0].map(u64::to_ne_bytes).concat();
    let geometry = Geometry { grid: [1; 3], block: [32, 1, 1], shared_bytes: 0 };
    let launch =
        |i: usize| Launch { function: functions[i][0], geometry, args: args.clone().into(), path: "net.layer".into() };
    let mut bytes = [0; 128];
    // SAFETY: the kernels write 32 floats.
    unsafe {
        let graph = driver.record(&[launch(0), launch(1), launch(1)].map(Work::from)).unwrap();
        driver.download(&mut bytes, out).unwrap();
        assert_eq!(bytes, [0xff; 128], "recording runs nothing");
        driver.replay(graph).unwrap();
        driver.replay(graph).unwrap();
        driver.download(&mut bytes, out).unwrap();
    }
    assert_eq!(bytes.to_vec(), [9f32; 32].map(f32::to_ne_bytes).concat());
}
