//! The GPU's driver: memory, compilation, launches, graphs, errors. On a machine without a GPU it is checked against
//! stand-ins for NVIDIA's libraries (`../fixtures/cuda/stand_in.c`), which knows this test's kernels by name, and
//! NVRTC's code is not run. `SRGAN_REQUIRE_CUDA` insists on a GPU, `SRGAN_REQUIRE_NVRTC` on the compiler.
//!
//! Each part is a process of its own, because a fault on a GPU ends the process's context.

mod boxes;
mod checks;
mod libraries;
mod products;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use srgan::Error;
use srgan::device::Compiling;
use srgan::device::cuda::compile::nvrtc::Nvrtc;
use srgan::device::cuda::driver::{DevicePtr, Driver, FunctionId, Geometry, Launch, ModuleSource, Work};
use srgan::device::cuda::gpu::gpus;
use srgan::device::cuda::libraries::Library;
use srgan::device::cuda::libraries::search::SearchPath;
use srgan::device::cuda::{GpuDriver, GpuOptions};

const PART: &str = "SRGAN_TEST_PART";
const PARTS: [(&str, fn()); 14] = [
    ("copies", copies),
    ("reads", reads),
    // The stand-in gives this part no page-locked memory.
    ("pageable_reads", reads),
    ("launches", launches),
    ("boxes", boxes::boxes),
    ("products_on_the_host", products::on_the_host),
    ("products", products::on_the_gpu),
    ("refusals", refusals),
    ("memory", memory),
    ("libraries", libraries::calls),
    ("checks", checks::checks),
    ("binaries", checks::binaries),
    ("fault", fault),
    ("fault_with_sync_kernels", fault_with_sync_kernels),
];

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        PARTS.iter().find(|(name, _)| *name == part).expect("a part's name").1();
        return ExitCode::SUCCESS;
    }
    let required = |name: &str| std::env::var_os(name).is_some();
    let search = SearchPath::new(&|name| std::env::var_os(name));
    let has_gpu = Library::Driver.load(&search, None).is_ok() && gpus().is_ok_and(|found| !found.is_empty());
    if !has_gpu && required("SRGAN_REQUIRE_CUDA") {
        println!("gpu_driver: FAILED: there is no GPU");
        return ExitCode::FAILURE;
    }
    if let Err(e) = Nvrtc::load(&search, None) {
        let must = required("SRGAN_REQUIRE_NVRTC");
        println!("gpu_driver: {}: {e}", if must { "FAILED" } else { "SKIPPED" });
        return if must { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("SRGAN_CACHE_DIR", dir.path());
    if !has_gpu {
        println!("gpu_driver: no GPU here: checked against a stand-in");
        for (source, library) in STAND_INS {
            build_stand_in(source, &dir.path().join("lib").join(library));
        }
        command.env("LD_LIBRARY_PATH", dir.path().join("lib")).env("CUDA_HOME", dir.path());
    }
    let mut failed = false;
    for (part, _) in PARTS {
        let ok = command.env(PART, part).status().unwrap().success();
        println!("gpu_driver: {part}: {}", if ok { "ok" } else { "FAILED" });
        failed |= !ok;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Sources in `fixtures/cuda`, and the libraries that they stand in for.
const STAND_INS: [(&str, &str); 3] = [
    ("stand_in.c", "libcuda.so.1"),
    ("stand_in_cublaslt.c", "libcublasLt.so.13"),
    ("stand_in_cudnn.c", "libcudnn.so.9"),
];

fn build_stand_in(source: &str, library: &Path) {
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cuda").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-shared", "-fPIC", "-O1"]).arg(source).arg("-o").arg(library);
    assert!(cc.status().expect("a C compiler").success());
}

fn open(sync_kernels: bool) -> GpuDriver {
    let options = GpuOptions::new(&|name| std::env::var_os(name));
    GpuDriver::new(GpuOptions { sync_kernels, ..options }).unwrap()
}

/// `scale`, `reverse` and `write_nowhere`, in this order.
fn compile(gpu: &mut GpuDriver) -> Vec<FunctionId> {
    let kernel = |name: &str, threads: usize, code: &str| ModuleSource {
        name: name.into(),
        text: format!(
            "struct Args {{ const float* x; float* y; int count; float factor; }};\n\
             __device__ void body(const Args& a) {{ {code} }}\nENTRY({name}, body, Args, {threads})\n"
        ),
        kernels: vec![name.into()],
    };
    let modules = [
        kernel(
            "scale",
            256,
            "const int i = blockIdx.x * 256 + threadIdx.x; if (i < a.count) a.y[i] = a.x[i] * a.factor;",
        ),
        kernel(
            "reverse",
            1024,
            "DYNAMIC_SHARED(float, all);\n\
             for (int i = threadIdx.x; i < a.count; i += 1024) all[i] = a.x[i];\n\
             __syncthreads();\n\
             for (int i = threadIdx.x; i < a.count; i += 1024) a.y[i] = all[a.count - 1 - i];",
        ),
        kernel("write_nowhere", 32, "a.y[threadIdx.x] = 1.f;"),
    ];
    let mut done = Vec::new();
    let functions = gpu.compile(&modules, &mut |compiling| done.push(compiling)).unwrap();
    // The parts share a cache.
    let cached = done[0].cached;
    let all = (cached..=3).map(|done| Compiling { total: 3, cached, done });
    assert_eq!(done, all.collect::<Vec<_>>());
    functions.concat()
}

fn launch(function: FunctionId, blocks: u32, threads: u32, x: DevicePtr, y: DevicePtr, count: usize) -> Launch {
    let mut args = [x.0.to_le_bytes(), y.0.to_le_bytes()].concat();
    args.extend((count as i32).to_le_bytes());
    args.extend(0.5f32.to_le_bytes());
    let geometry = Geometry { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 };
    Launch { function, geometry, args: args.into(), path: Arc::from("generator.head") }
}

fn upload(gpu: &mut GpuDriver, to: DevicePtr, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    // SAFETY: tests allocate as much.
    unsafe { gpu.upload(to, &bytes).unwrap() };
}

fn download(gpu: &mut GpuDriver, from: DevicePtr, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * 4];
    // SAFETY: tests allocate as much.
    unsafe { gpu.download(&mut bytes, from).unwrap() };
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 + 1.0).collect()
}

/// A read brings what was there when it was queued, whatever was queued after it, in whatever order reads are collected.
fn reads() {
    let mut gpu = open(false);
    let [scale, ..] = compile(&mut gpu)[..] else { panic!("three kernels") };
    let count = 1000;
    let [x, y] = [(); 2].map(|()| gpu.alloc(count * 4).unwrap());
    let halve = launch(scale, 4, 256, x, y, count);
    let multiple = |factor: f32| ramp(count).iter().map(|v| v * factor).collect::<Vec<_>>();
    for round in 0..3 {
        let mut started = Vec::new();
        for factor in [1, 2, 3].map(|f| (f + 3 * round) as f32) {
            upload(&mut gpu, x, &multiple(factor));
            // SAFETY: kernels and memory as above.
            let read = unsafe { gpu.launch(&halve).and_then(|()| gpu.start_read(y, count * 4)) };
            started.push((read.unwrap(), multiple(factor / 2.0)));
        }
        started.swap(0, round);
        for (read, want) in &started {
            let mut bytes = vec![0; count * 4];
            gpu.finish_read(*read, &mut bytes).unwrap();
            assert!(bytes.chunks_exact(4).zip(want).all(|(b, w)| b == w.to_le_bytes()), "round {round}");
        }
        let again = gpu.finish_read(started[0].0, &mut vec![0; count * 4]).unwrap_err().to_string();
        assert!(again.contains("there is no read"), "{again}");
    }
    // SAFETY: less than was allocated.
    let [nothing, one] = [0, 1].map(|bytes| unsafe { gpu.start_read(y, bytes).unwrap() });
    gpu.finish_read(one, &mut []).unwrap_err();
    gpu.finish_read(one, &mut [0]).unwrap();
    gpu.finish_read(nothing, &mut []).unwrap();
}

/// The caller's slice is free when `upload` returns, also when many copies, or more than the staging memory, wait.
fn copies() {
    let mut gpu = open(false);
    assert!(gpu.describe().contains(", sm_"), "{}", gpu.describe());
    let mut bytes: Vec<u8> = Vec::new();
    for len in [0, 1, 255, (8 << 20) + 3, 150 << 20] {
        let at = gpu.alloc(len).unwrap();
        assert!(at.0.is_multiple_of(256));
        bytes.clear();
        bytes.extend((0..len).map(|i| (i % 251) as u8));
        let sent = bytes.clone();
        let mut back = vec![7; len];
        // SAFETY: as many bytes.
        unsafe {
            gpu.upload(at, &bytes).unwrap();
            bytes.fill(0);
            gpu.download(&mut back, at).unwrap();
            gpu.free(at);
        }
        assert!(back == sent, "{len} bytes");
    }
    let all = gpu.alloc(300 * 4).unwrap();
    for i in 0..300 {
        upload(&mut gpu, all.offset_by(i * 4), &[i as f32 + 1.0]);
    }
    assert_eq!(download(&mut gpu, all, 300), ramp(300));
}

fn launches() {
    let mut gpu = open(false);
    let [scale, reverse, _] = compile(&mut gpu)[..] else { panic!("three kernels") };
    let count = 16 << 10;
    let [x, y, z] = [(); 3].map(|()| gpu.alloc(count * 4).unwrap());
    upload(&mut gpu, x, &ramp(count));
    let halve = |from, to| launch(scale, 64, 256, from, to, count);
    // SAFETY: kernels and memory as above, here and below.
    unsafe { gpu.launch(&halve(x, y)).unwrap() };
    let halves: Vec<f32> = ramp(count).iter().map(|v| v * 0.5).collect();
    assert_eq!(download(&mut gpu, y, count), halves);

    // 64 KiB of shared memory: more than a kernel gets without asking.
    let mut turn = launch(reverse, 1, 1024, y, z, count);
    turn.geometry.shared_bytes = 64 << 10;
    let backwards = |factor: f32| ramp(count).iter().rev().map(|v| v * factor).collect::<Vec<f32>>();
    // Recorded before it ever ran.
    let graph = unsafe { gpu.record(&[halve(x, y).into(), turn.clone().into()]).unwrap() };
    let nothing = unsafe { gpu.record(&[]).unwrap() };
    for factor in [1.0, 3.0] {
        upload(&mut gpu, x, &ramp(count).iter().map(|v| v * factor).collect::<Vec<_>>());
        unsafe {
            gpu.replay(graph).unwrap();
            gpu.replay(nothing).unwrap();
        }
        assert_eq!(download(&mut gpu, z, count), backwards(0.5 * factor));
    }
    gpu.forget(graph);
    let error = unsafe { gpu.replay(graph).unwrap_err().to_string() };
    assert!(error.contains("there is no graph 0"), "{error}");
    unsafe { gpu.replay(nothing).unwrap() };
    unsafe { gpu.launch(&turn).unwrap() };
    gpu.synchronize().unwrap();

    // Work that is timed part by part is done, once and in its order.
    upload(&mut gpu, x, &ramp(count));
    let parts: [&[Work]; 3] = [&[halve(x, y).into()], &[], &[turn.into()]];
    let times = unsafe { gpu.run_timed(&parts).unwrap() };
    assert!(times.len() == 3 && times[0] > times[1] && times[2] > times[1], "{times:?}");
    assert_eq!(download(&mut gpu, z, count), backwards(0.5));
    assert!(unsafe { gpu.run_timed(&[]).unwrap() }.is_empty());

    // One by one, the same.
    let mut careful = open(true);
    let [scale, ..] = compile(&mut careful)[..] else { panic!("three kernels") };
    let [x, y] = [(); 2].map(|()| careful.alloc(count * 4).unwrap());
    upload(&mut careful, x, &ramp(count));
    let halve = Work::from(launch(scale, 64, 256, x, y, count));
    let graph = unsafe { careful.record(std::slice::from_ref(&halve)).unwrap() };
    unsafe { careful.replay(graph).unwrap() };
    assert_eq!(download(&mut careful, y, count), halves);
    upload(&mut careful, y, &vec![0.0; count]);
    assert_eq!(unsafe { careful.run_timed(&[&[halve]]).unwrap() }.len(), 1);
    assert_eq!(download(&mut careful, y, count), halves);
}

/// What the GPU refuses is an error that names the kernel; the driver stays usable.
fn refusals() {
    let mut gpu = open(false);
    let [scale, ..] = compile(&mut gpu)[..] else { panic!("three kernels") };
    let [x, y] = [(); 2].map(|()| gpu.alloc(400).unwrap());
    upload(&mut gpu, x, &ramp(100));
    let good = launch(scale, 1, 256, x, y, 100);
    let mut greedy = good.clone();
    greedy.geometry.shared_bytes = 1 << 20;
    let mut empty = good.clone();
    empty.geometry.grid = [0, 1, 1];
    for bad in [greedy, empty] {
        // SAFETY: refused before anything runs.
        let errors =
            unsafe { [gpu.launch(&bad).unwrap_err(), gpu.record(&[good.clone().into(), bad.into()]).unwrap_err()] };
        for error in errors {
            let text = error.to_string();
            assert!(matches!(error, Error::Device { .. }), "{text}");
            assert!(text.contains("kernel scale of generator.head") && text.contains("INVALID_VALUE"), "{text}");
        }
        // SAFETY: kernels and memory as above.
        let graph = unsafe { gpu.record(&[good.clone().into()]).unwrap() };
        unsafe { gpu.replay(graph).unwrap() };
        assert_eq!(download(&mut gpu, y, 2), [0.5, 1.0]);
    }
    let module = ModuleSource { name: "scale".into(), text: String::new(), kernels: vec!["no_such_kernel".into()] };
    let error = gpu.compile(&[module], &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("kernel no_such_kernel of module scale"), "{error}");
    let options = GpuOptions { ordinal: 99, ..GpuOptions::new(&|name| std::env::var_os(name)) };
    let error = GpuDriver::new(options).unwrap_err().to_string();
    assert!(error.contains("there is no GPU 99") && error.contains("hint"), "{error}");
}

fn memory() {
    let mut gpu = open(false);
    let (free, total) = gpu.memory().unwrap();
    assert!(0 < free && free <= total);
    assert!(gpu.cache_bytes() >= 1 << 20, "{}", gpu.cache_bytes());
    let before = gpu.allocated();
    let some = gpu.alloc(1000).unwrap();
    assert_eq!(gpu.allocated(), before + 1000);
    // SAFETY: nothing uses it.
    unsafe { gpu.free(some) };
    assert_eq!(gpu.allocated(), before);
    let error = gpu.alloc(1 << 50).unwrap_err().to_string();
    assert!(error.contains("no 1073741824 MiB of memory left") && error.contains("are free"), "{error}");
    // What a driver held is free again when it is gone.
    for _ in 0..3 {
        let mut another = open(false);
        let half = another.alloc(free / 2).unwrap();
        // SAFETY: nothing uses it.
        unsafe { another.free(half) };
        another.alloc(free / 2).unwrap();
    }
}

/// A launch that writes to an address that is not allocated.
fn write_nowhere(gpu: &mut GpuDriver) -> Launch {
    let functions = compile(gpu);
    launch(functions[2], 1, 32, DevicePtr(16), DevicePtr(16), 0)
}

fn fault() {
    let mut gpu = open(false);
    let bad = write_nowhere(&mut gpu);
    // SAFETY: the fault is the point: the GPU stops at it.
    unsafe { gpu.launch(&bad).unwrap() };
    for _ in 0..2 {
        let error = gpu.synchronize().unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    }
}

fn fault_with_sync_kernels() {
    let mut gpu = open(true);
    let bad = write_nowhere(&mut gpu);
    // SAFETY: as above.
    let graph = unsafe { gpu.record(&[bad.into()]).unwrap() };
    let error = unsafe { gpu.replay(graph).unwrap_err() };
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    assert!(error.to_string().contains("kernel write_nowhere of generator.head"), "{error}");
}
