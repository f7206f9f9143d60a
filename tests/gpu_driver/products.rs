//! Products of warpgroups on operands in every form that the kernels use: where their elements lie is written down here
//! once more, from the documentation. They run on a GPU that has them, and on the host driver.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use srgan::device::cuda::ArgsContent;
use srgan::device::cuda::driver::{DevicePtr, Driver, Geometry, Launch, ModuleSource};
use srgan::device::cuda::host::{HostDriver, HostOptions};

use super::open;

/// Rows of A, and products in a sum.
const ROWS: usize = 64;
const DEPTH: usize = 16;
/// Bytes of shared memory that a case describes; operand B begins in the middle.
const IMAGE: usize = 64 << 10;
const THREADS: usize = 128;

/// What runs along contiguous bytes: K, or rows of A and columns of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Major {
    K,
    Mn,
}

/// How an operand lies: in core matrices, as the pixels of a patch do, or in swizzled rows of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Cores,
    Rows(usize),
}

/// An operand, which begins at `start` and goes on by two strides.
#[derive(Clone, Copy, Debug)]
struct Operand {
    major: Major,
    form: Form,
    start: usize,
    k_stride: usize,
    mn_stride: usize,
}

impl Operand {
    /// Core matrices of patches 18 pixels wide, of which the operand's first pixel is number `first`.
    fn pixels(major: Major, start: usize, first: usize) -> Operand {
        let (row, plane) = (18 * 16, 18 * 34 * 16);
        let (k_stride, mn_stride) = if major == Major::K { (plane, row) } else { (128, 18 * 10 * 16) };
        Operand { major, form: Form::Cores, start: start + 16 * first, k_stride, mn_stride }
    }

    /// Swizzled rows without gaps; of K-major ones `first` sixteens of K into the row.
    fn rows(major: Major, bytes: usize, start: usize, first: usize) -> Operand {
        let stride = 8 * bytes;
        Operand { major, form: Form::Rows(bytes), start: start + 32 * first, k_stride: stride, mn_stride: stride }
    }

    /// Where an element of row (of A) or column (of B) `mn` lies in shared memory.
    fn place(&self, mn: usize, k: usize) -> usize {
        let (along, across) = if self.major == Major::K { (k, mn) } else { (mn, k) };
        match self.form {
            // 8 by 16 bytes; strides from one to the next.
            Form::Cores => {
                let within = across % 8 * 16 + along % 8 * 2;
                self.start + k / 8 * self.k_stride + mn / 8 * self.mn_stride + within
            }
            // Bits 4 to 6 of an address, as many as a row has, are combined with bits 7 to 9.
            Form::Rows(bytes) => {
                let at = self.start + across * bytes + along * 2;
                at ^ ((at >> 7) % (bytes / 16)) << 4
            }
        }
    }

    /// The descriptor, in C++.
    fn descriptor(&self, start: &str) -> String {
        match self.form {
            Form::Cores => format!("matrix_descriptor(shared + {start}, {}, {})", self.k_stride, self.mn_stride),
            Form::Rows(bytes) => format!("swizzled_descriptor<{bytes}>(shared + {start}, {})", 8 * bytes),
        }
    }
}

/// A product of so many columns, and its operands at several starts.
struct Case {
    columns: usize,
    operands: Vec<[Operand; 2]>,
}

/// Every pair of forms that `kernels/conv2d_wgmma.cu` multiplies.
fn cases() -> Vec<Case> {
    use Major::{K, Mn};
    let b = IMAGE / 2;
    let starts = |make: &dyn Fn(usize) -> [Operand; 2]| (0..8).map(make).collect::<Vec<_>>();
    let case = |columns, operands| Case { columns, operands };
    let pixels_by_rows = |columns, major, bytes: usize| {
        let sixteens = if major == K { bytes / 32 } else { 1 };
        let operands = |i| [Operand::pixels(K, 0, i), Operand::rows(major, bytes, b, i % sixteens)];
        case(columns, starts(&operands))
    };
    let rows_by_pixels = |columns, major, bytes: usize| {
        let sixteens = if major == K { bytes / 32 } else { 1 };
        let operands = |i| [Operand::rows(major, bytes, 0, i % sixteens), Operand::pixels(K, b, i)];
        case(columns, starts(&operands))
    };
    vec![
        pixels_by_rows(32, K, 64),
        pixels_by_rows(16, K, 32),
        pixels_by_rows(32, Mn, 64),
        pixels_by_rows(16, Mn, 32),
        case(8, starts(&|i| [Operand::pixels(K, 0, i), Operand::pixels(Mn, b, 0)])),
        rows_by_pixels(64, K, 64),
        rows_by_pixels(128, K, 32),
        rows_by_pixels(256, Mn, 128),
        case(64, starts(&|i| [Operand::pixels(Mn, 0, i), Operand::pixels(Mn, b, 0)])),
    ]
}

/// Multiplies what lies in shared memory: the image that it is given.
fn module(case: &Case) -> ModuleSource {
    let [a, b] = case.operands[0];
    let mn_major = |operand: &Operand| operand.major == Major::Mn;
    let (columns, sums) = (case.columns, case.columns / 2);
    let mut text = String::new();
    let _ = write!(
        text,
        "struct Args {{ const uint4* image; float* d; int a, b; }};\n\
         __device__ void body(const Args& a) {{\n\
           DYNAMIC_SHARED(unsigned char, memory);\n\
           unsigned char* shared = align_shared<1024>(memory);\n\
           for (int i = threadIdx.x; i < {IMAGE} / 16; i += {THREADS}) {{\n\
             reinterpret_cast<uint4*>(shared)[i] = a.image[i];\n\
           }}\n\
           // Its fence also stands between ordinary stores and products.\n\
           barrier_init_done();\n\
           __syncthreads();\n\
           float d[{sums}] = {{}};\n\
           fence_registers(d);\n\
           wgmma_fence();\n\
           wgmma<{columns}, {}, {}>(d, {}, {});\n\
           wgmma_commit();\n\
           wgmma_wait<0>();\n\
           fence_registers(d);\n\
           for (int i = 0; i < {sums}; ++i) a.d[threadIdx.x * {sums} + i] = d[i];\n\
         }}\n\
         ENTRY(product, body, Args, {THREADS})\n",
        mn_major(&a),
        mn_major(&b),
        a.descriptor("a.a"),
        b.descriptor("a.b"),
    );
    ModuleSource { name: "product".into(), text, kernels: vec!["product".into()] }
}

/// A whole number of a few bits, exact in bf16; another one for each place.
fn value(mn: usize, k: usize, operand: usize) -> f32 {
    ((mn * 31 + k * 17 + operand * 7 + mn * k) % 23) as f32 - 11.0
}

/// Where sum `i` of a thread lies in the result.
fn result_place(thread: usize, i: usize) -> (usize, usize) {
    let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
    (16 * warp + g + i / 2 % 2 * 8, i / 4 * 8 + 2 * t + i % 2)
}

fn check(driver: &mut dyn Driver) {
    let (image, d) = (driver.alloc(IMAGE).unwrap(), driver.alloc(ROWS * 256 * 4).unwrap());
    for case in cases() {
        let function = driver.compile(&[module(&case)], &mut |_| ()).unwrap()[0][0];
        for operands in &case.operands {
            // Everything else is NaN.
            let mut bytes = vec![0xff; IMAGE];
            for (number, (operand, rows)) in operands.iter().zip([ROWS, case.columns]).enumerate() {
                for (mn, k) in (0..rows).flat_map(|mn| (0..DEPTH).map(move |k| (mn, k))) {
                    let at = operand.place(mn, k);
                    let bits = value(mn, k, number).to_le_bytes();
                    bytes[at..at + 2].copy_from_slice(&bits[2..]);
                }
            }
            let mut args = [image.0.to_le_bytes(), d.0.to_le_bytes()].concat();
            args.extend(operands.iter().flat_map(|operand| (operand.start as i32).to_le_bytes()));
            let geometry = Geometry { grid: [1; 3], block: [THREADS as u32, 1, 1], shared_bytes: IMAGE as u32 + 1024 };
            let launch =
                Launch { function, geometry, args: ArgsContent::from(args), path: Arc::from("generator.head") };
            let got = run(driver, image, &bytes, &launch, d, ROWS * case.columns);
            for (at, got) in got.iter().enumerate() {
                let (row, column) = result_place(at / (case.columns / 2), at % (case.columns / 2));
                let want: f32 = (0..DEPTH).map(|k| value(row, k, 0) * value(column, k, 1)).sum();
                assert_eq!(*got, want, "row {row}, column {column} of {} of {operands:?}", case.columns);
            }
        }
    }
}

fn run(
    driver: &mut dyn Driver,
    image: DevicePtr,
    bytes: &[u8],
    launch: &Launch,
    d: DevicePtr,
    count: usize,
) -> Vec<f32> {
    let mut floats = vec![0; count * 4];
    // SAFETY: the memory has these sizes, and the arguments are the kernel's.
    unsafe {
        driver.upload(image, bytes).unwrap();
        driver.launch(launch).unwrap();
        driver.download(&mut floats, d).unwrap();
    }
    floats.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn on_the_host() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
    check(&mut HostDriver::new(&cache, HostOptions::default()).unwrap());
}

pub fn on_the_gpu() {
    let mut gpu = open(false);
    if !gpu.has_warpgroups() || gpu.describe().starts_with("Stand-in") {
        println!("gpu_driver: products: SKIPPED: {} multiplies no matrices of warpgroups", gpu.describe());
        return;
    }
    check(&mut gpu);
}
