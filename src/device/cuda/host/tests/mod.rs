//! Small kernels on the host: results against plain loops, and faults that must be found.

mod faults;
mod results;
mod sanitizer;

use std::path::PathBuf;

use super::{HostDriver, HostOptions, ThreadOrder};
use crate::Result;
use crate::device::cuda::driver::{DevicePtr, Driver, FunctionId, Geometry, Launch, ModuleSource};

const ORDERS: [ThreadOrder; 3] = [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(7)];

fn ordered(order: ThreadOrder) -> HostOptions {
    HostOptions { order, ..HostOptions::default() }
}

/// Builds are kept between test runs.
fn cache() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp/host"))
}

/// A module of one kernel `test_kernel(a)` with this body; its first line is line 1 of `test.cu`.
fn module(threads: u32, body: &str) -> ModuleSource {
    let text = format!(
        "namespace kernels {{\n\
         struct Args {{\n  const float *x, *y;\n  float* out;\n  int n;\n}};\n\
         template <class A>\n\
         __device__ void test_kernel(const A& a) {{\n\
         #line 1 \"kernels/test.cu\"\n{body}\n}}\n}}\n\
         using kernels::Args;\nENTRY(test_kernel, kernels::test_kernel, Args, {threads})\n"
    );
    ModuleSource { name: "test".to_owned(), text, kernels: vec!["test_kernel".to_owned()] }
}

/// One launch of a kernel: its body, its inputs, the length of its output.
struct Case<'a> {
    body: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    x: &'a [f32],
    y: &'a [f32],
    n: usize,
    out: usize,
}

impl<'a> Case<'a> {
    /// One block of `threads` threads, an output a thread.
    fn block(threads: u32, body: &'a str) -> Case<'a> {
        let out = threads as usize;
        Case { body, grid: [1; 3], block: [threads, 1, 1], shared_bytes: 0, x: &[], y: &[], n: 0, out }
    }

    /// The output.
    fn run(&self, options: HostOptions) -> Result<Vec<f32>> {
        let mut driver = HostDriver::new(&cache(), options)?;
        let function = driver.compile(&[module(self.block.iter().product(), self.body)], &mut |_| ())?[0][0];
        self.run_on(&mut driver, function)
    }

    fn run_on(&self, driver: &mut HostDriver, function: FunctionId) -> Result<Vec<f32>> {
        let x = upload(driver, self.x)?;
        let y = upload(driver, self.y)?;
        let out = driver.alloc(size_of::<f32>() * self.out)?;
        let args = [x.0, y.0, out.0, self.n as u64].map(u64::to_ne_bytes).concat();
        let geometry = Geometry { grid: self.grid, block: self.block, shared_bytes: self.shared_bytes };
        let launch = Launch { function, geometry, args: args.into(), path: "net.layer".into() };
        let mut bytes = vec![0; size_of::<f32>() * self.out];
        // SAFETY: the arguments are those of `module`, the cases' kernels stay inside their buffers, and nothing
        // uses these once the launch is done.
        unsafe {
            let launched = driver.launch(&launch).and_then(|()| driver.download(&mut bytes, out));
            for ptr in [x, y, out] {
                driver.free(ptr);
            }
            launched?;
        }
        Ok(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The messages of the launch's failure in each order of threads.
    fn failure(&self) -> String {
        let messages = ORDERS.map(|order| self.run(ordered(order)).unwrap_err().to_string());
        for message in &messages {
            assert!(message.starts_with("net.layer: kernel test_kernel, block (0, 0, 0): "), "{message}");
        }
        messages.join("\n")
    }
}

fn upload(driver: &mut HostDriver, data: &[f32]) -> Result<DevicePtr> {
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_ne_bytes()).collect();
    let ptr = driver.alloc(bytes.len())?;
    // SAFETY: allocated with as many bytes.
    unsafe { driver.upload(ptr, &bytes)? };
    Ok(ptr)
}

/// Numbers without a pattern, in -1 to 1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(next).collect()
}

fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let near = (f64::from(got) - want).abs() <= tolerance;
        assert!(near, "element {i}: {got}, expected {want}");
    }
}
