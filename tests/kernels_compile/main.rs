//! Every kernel compiles with NVRTC for every supported kind of GPU, and no kernel spills registers. Needs no GPU:
//! only NVRTC, which is found as the program finds it (`CUDA_HOME`, `VIRTUAL_ENV`, …). Without it the test says that
//! it is skipped; with `SRGAN_REQUIRE_NVRTC` set it fails.

mod programs;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;

use srgan::device::Compiling;
use srgan::device::cuda::compile::cache::Cache;
use srgan::device::cuda::compile::nvrtc::{Arch, Compiled, Nvrtc};
use srgan::device::cuda::driver::ModuleSource;
use srgan::device::cuda::libraries::search::SearchPath;
use srgan::device::cuda::{Usage, machine_code};
use srgan::table::Table;

/// Compute capabilities: A100, RTX 30, RTX 40, H100 and H200, B200.
const CAPABILITIES: [(u32, u32); 5] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0)];

/// Kernels that may spill, and why.
const MAY_SPILL: &[(&str, &str)] = &[(
    "conv2d",
    "4 bytes, before Hopper, in the narrowest f32 variant: the compiler keeps to 64 registers, so that four blocks fit",
)];

fn main() -> ExitCode {
    let nvrtc = match Nvrtc::load(&SearchPath::new(&|name| std::env::var_os(name)), None) {
        Ok(nvrtc) => nvrtc,
        Err(e) if std::env::var_os("SRGAN_REQUIRE_NVRTC").is_some() => {
            println!("kernels_compile: FAILED: {e}");
            return ExitCode::FAILURE;
        }
        Err(e) => {
            println!("kernels_compile: SKIPPED: {e}");
            return ExitCode::SUCCESS;
        }
    };
    println!("kernels_compile: NVRTC {} ({})", nvrtc.library().version, nvrtc.library().path.display());
    a_compile_error_names_file_and_line(&nvrtc);
    code_comes_from_the_cache_and_damaged_entries_are_made_anew(&nvrtc);
    the_first_error_of_the_list_is_reported(&nvrtc);
    every_kernel_compiles(&nvrtc)
}

fn arch((major, minor): (u32, u32)) -> Arch {
    Arch::of(major, minor).unwrap()
}

/// Two small kernels of this test.
fn own_modules() -> Vec<ModuleSource> {
    vec![sum_of_squares(), bf16_products()]
}

/// A kernel with static and dynamic shared memory.
fn sum_of_squares() -> ModuleSource {
    let text = "#line 1 \"kernels/sum_of_squares.cu\"\n\
        struct Args { const float* x; float* sums; static constexpr int count = 4096; };\n\
        __device__ void body(const Args& a) {\n\
          SHARED(float, part, [256]);\n\
          DYNAMIC_SHARED(float, values);\n\
          values[threadIdx.x] = a.x[blockIdx.x * 256 + threadIdx.x];\n\
          part[threadIdx.x] = values[threadIdx.x] * values[threadIdx.x];\n\
          __syncthreads();\n\
          for (int half = 128; half > 0; half /= 2) {\n\
            if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];\n\
            __syncthreads();\n\
          }\n\
          if (threadIdx.x == 0) a.sums[blockIdx.x] = part[0];\n\
        }\n\
        ENTRY(sum_of_squares, body, Args, 256)\n";
    ModuleSource { name: "sum_of_squares".into(), text: text.into(), kernels: vec!["sum_of_squares".into()] }
}

/// A kernel that needs one of CUDA's headers.
fn bf16_products() -> ModuleSource {
    let text = "#line 1 \"kernels/bf16_products.cu\"\n\
        #include <cuda_bf16.h>\n\
        struct Args { const __nv_bfloat16* x; float* y; };\n\
        __device__ void body(const Args& a) {\n\
          const uint32_t i = blockIdx.x * 128 + threadIdx.x;\n\
          a.y[i] = __bfloat162float(a.x[i]) * __bfloat162float(__float2bfloat16(a.y[i]));\n\
        }\n\
        ENTRY(bf16_products, body, Args, 128)\n";
    ModuleSource { name: "bf16_products".into(), text: text.into(), kernels: vec!["bf16_products".into()] }
}

/// A kernel with an error in its second line.
fn faulty(name: &str) -> ModuleSource {
    let text = format!("#line 1 \"kernels/{name}.cu\"\n__device__ int one = 1;\n__device__ int two = no_such_name;\n");
    ModuleSource { name: name.into(), text, kernels: vec![] }
}

fn a_compile_error_names_file_and_line(nvrtc: &Nvrtc) {
    let error = nvrtc.compile(&faulty("wrong"), &arch((8, 0))).unwrap_err().to_string();
    assert!(error.contains("kernel wrong does not compile for sm_80"), "{error}");
    assert!(error.contains("kernels/wrong.cu(2): error") && error.contains("no_such_name"), "{error}");
    let error = nvrtc.supports(&Arch::of(99, 9).unwrap()).unwrap_err().to_string();
    assert!(error.contains("makes no code for sm_999") && error.contains("pip install"), "{error}");
}

fn code_comes_from_the_cache_and_damaged_entries_are_made_anew(nvrtc: &Nvrtc) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let (modules, arch) = (own_modules(), arch((9, 0)));
    let compile = |cache: &Cache, cached: usize| {
        let mut done = Vec::new();
        let codes = machine_code(nvrtc, cache, &arch, &modules, &mut |compiling| done.push(compiling)).unwrap();
        let all = (cached..=2).map(|done| Compiling { total: 2, cached, done });
        assert_eq!(done, all.collect::<Vec<_>>());
        codes
    };
    let first = compile(&cache, 0);
    assert_eq!(cache.contents().entries, 2);
    assert_eq!(compile(&cache, 2), first);
    // What is in the cache is what is used.
    cache.put(&nvrtc.key(&modules[0], &arch), b"stored").unwrap();
    assert_eq!(compile(&cache, 2), [b"stored".to_vec(), first[1].clone()]);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(compile(&cache, 0), first);
    assert_eq!(cache.get(&nvrtc.key(&modules[0], &arch)), Some(first[0].clone()));
    // A folder that cannot be made.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(compile(&Cache::at(file), 0), first);
}

fn the_first_error_of_the_list_is_reported(nvrtc: &Nvrtc) {
    let dir = tempfile::tempdir().unwrap();
    let list: Vec<_> = ["a", "b", "c", "d"].map(faulty).into_iter().chain(own_modules()).collect();
    for list in [&list[..], &[own_modules(), list.clone()].concat()] {
        let error = machine_code(nvrtc, &Cache::at(dir.path()), &arch((8, 0)), list, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("kernel a does not compile"), "{error}");
    }
}

/// Compiles all and prints what each kernel takes; fails for errors, missing kernels and spills.
fn every_kernel_compiles(nvrtc: &Nvrtc) -> ExitCode {
    let modules = largest_of_each_kernel();
    let mut faults = Vec::new();
    for name in programs::kernel_names().into_iter().filter(|name| modules.iter().all(|m| m.name != *name)) {
        faults.push(format!("no program of this test uses kernel {name}"));
    }
    let own = own_modules();
    let all: Vec<_> = modules.iter().chain(&own).collect();
    let archs = CAPABILITIES.map(arch);
    let on = |module: &ModuleSource, arch: &Arch| arch.has_warpgroups() || !module.name.ends_with("wgmma");
    let work: Vec<_> =
        all.iter().flat_map(|m| archs.iter().filter(|a| on(m, a)).map(|arch| (arch.clone(), *m))).collect();
    let mut results = compile_all(nvrtc, &work).into_iter();
    // By kernel, of each variant and then of each kind of GPU that runs it.
    let mut used: BTreeMap<&str, Vec<[Option<Usage>; CAPABILITIES.len()]>> = BTreeMap::new();
    for module in &all {
        let mut variant = [const { None }; CAPABILITIES.len()];
        for (gpu, arch) in archs.iter().enumerate().filter(|(_, arch)| on(module, arch)) {
            match results.next() {
                Some(Ok(compiled)) => variant[gpu] = check(module, arch, &compiled, &mut faults),
                Some(Err(e)) => faults.push(e.to_string()),
                None => {}
            }
        }
        used.entry(&module.name).or_default().push(variant);
    }
    let archs = archs.map(|arch| arch.to_string());
    let columns = ["most registers:", "variants"].into_iter().chain(archs.iter().map(String::as_str));
    let mut table = Table::new(columns.chain(["shared", "stack", "spilled"]));
    used.iter().for_each(|(kernel, variants)| table.row(row(kernel, variants)));
    println!("{table}");
    faults.iter().for_each(|fault| println!("kernels_compile: FAILED: {fault}"));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Of each kernel, for each set of the constants that shape its code, the module with the longest text, which has the
/// most work fused into it.
fn largest_of_each_kernel() -> Vec<ModuleSource> {
    let mut largest: BTreeMap<(String, Vec<String>), ModuleSource> = BTreeMap::new();
    let all = programs::all_modules();
    println!("kernels_compile: {} modules of all configs", all.len());
    for module in all {
        let kernel = (module.name.clone(), shaping_constants(&module.text));
        let known = largest.get(&kernel).map_or(0, |m| m.text.len());
        if module.text.len() > known {
            largest.insert(kernel, module);
        }
    }
    largest.into_values().collect()
}

/// The arguments that are constants on every driver, whose names are in capitals: template arguments, sizes of
/// register blocks.
fn shaping_constants(text: &str) -> Vec<String> {
    let (_, args) = text.rsplit_once("struct Args {").unwrap_or_default();
    let constant = |line: &str| line.trim().strip_prefix("static constexpr int ").map(str::to_owned);
    args.lines().filter_map(constant).filter(|c| c.starts_with(|first: char| first.is_ascii_uppercase())).collect()
}

/// What a module's kernel takes; adds to `faults` what is wrong.
fn check(module: &ModuleSource, arch: &Arch, compiled: &Compiled, faults: &mut Vec<String>) -> Option<Usage> {
    if !compiled.cubin.starts_with(b"\x7fELF") {
        faults.push(format!("{} for {arch}: no machine code", module.name));
    }
    let (kernel, variant) = (&module.name, shaping_constants(&module.text).join(" "));
    let usage = compiled.usage.iter().find(|u| u.kernel == *kernel).cloned();
    match &usage {
        None => faults.push(format!("{kernel} for {arch}: there is no such kernel:\n{}", compiled.log)),
        Some(usage) if usage.spills() && !MAY_SPILL.iter().any(|(name, _)| name == kernel) => {
            let bytes = usage.spill_stores.max(usage.spill_loads);
            faults.push(format!("{kernel} for {arch} spills {bytes} bytes of registers: {variant}"));
        }
        Some(_) => {}
    }
    // The assembler waits after each product of a warpgroup where it cannot follow the registers of their sums.
    if compiled.log.contains("serialized") {
        faults.push(format!("{kernel} for {arch} waits for each product: {variant}\n{}", compiled.log));
    }
    usage
}

/// The number of variants, the most registers on each kind of GPU (0 where it does not run), then the most bytes of
/// shared memory, stack and spilled registers.
fn row(kernel: &str, variants: &[[Option<Usage>; CAPABILITIES.len()]]) -> Vec<String> {
    let registers = |gpu: usize| variants.iter().filter_map(|v| Some(v[gpu].as_ref()?.registers)).max().unwrap_or(0);
    let most = |of: fn(&Usage) -> u32| variants.iter().flatten().flatten().map(of).max().unwrap_or(0);
    let bytes = [most(|u| u.shared_bytes), most(|u| u.stack_bytes), most(|u| u.spill_stores.max(u.spill_loads))];
    let numbers = (0..CAPABILITIES.len()).map(registers).chain(bytes).map(|n| n.to_string());
    [kernel.to_owned(), variants.len().to_string()].into_iter().chain(numbers).collect()
}

/// Compiles on all processors, without a cache.
fn compile_all(nvrtc: &Nvrtc, work: &[(Arch, &ModuleSource)]) -> Vec<srgan::Result<Compiled>> {
    let next = Mutex::new(work.iter().enumerate());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((i, (arch, module))) = next.lock().unwrap().next() else { break };
                    let result = nvrtc.compile(module, arch);
                    results.lock().unwrap().push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}
