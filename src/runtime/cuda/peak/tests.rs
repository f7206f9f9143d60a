//! The kernels of the measurements on the host: what they compute is what plain arithmetic says.

use half::bf16;

use super::*;
use crate::device::cuda::host::{HostDriver, HostOptions, Libraries};

const SMALL: Size = Size { floats: 1 << 11, blocks: 2, steps: 3, side: 16 };

fn host(libraries: Libraries) -> HostDriver {
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    HostDriver::new(&cache, HostOptions { libraries, ..HostOptions::default() }).unwrap()
}

/// Runs a kernel; the floats at `at` after it.
fn run(driver: &mut HostDriver, kernel: &KernelLaunch, at: DevicePtr, count: usize) -> Vec<f32> {
    let launch = prepare(driver, kernel, "peak").unwrap();
    let mut bytes = vec![0; count * 4];
    // SAFETY: the callers' memory is that of `SMALL`.
    unsafe {
        driver.launch(&launch).unwrap();
        driver.download(&mut bytes, at).unwrap();
    }
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_operation_that_counts_is_done() {
    let mut driver = host(Libraries::None);
    let [from, to] = [(); 2].map(|()| driver.alloc(SMALL.floats * 4).unwrap());
    fill(&mut driver, from, SMALL.floats).unwrap();
    let [sums, tf32, bf16, copy] = kernels([from, to], &SMALL);
    let (threads, steps) = (SMALL.blocks * THREADS, SMALL.steps);

    let got = run(&mut driver, &sums, to, threads);
    for (i, got) in got.iter().enumerate() {
        let chain = |j: usize| (0..steps).fold((i % THREADS + j) as f32, |v, _| v.mul_add(0.999, 0.5));
        let want: f32 = (0..CHAINS).map(chain).sum();
        assert!((got - want).abs() <= 1e-6 * want, "{i}: {got}, not {want}");
    }
    for (kernel, inner) in [(&tf32, 8), (&bf16, 16)] {
        let got = run(&mut driver, kernel, to, threads);
        for (i, got) in got.iter().enumerate() {
            let (group, lane) = (i % 32 / 4, i % 4);
            // Rows g and g + 8, columns 2 t and 2 t + 1, both counted from 1.
            let of_step = inner * (2 * group + 10) * (4 * lane + 3);
            let want = CHAINS * steps * of_step + 4 * CHAINS * (CHAINS - 1) / 2;
            assert_eq!(*got, want as f32, "{i}, K = {inner}");
        }
    }
    let copied = run(&mut driver, &copy, to, SMALL.floats);
    assert_eq!(copied, run(&mut driver, &copy, from, SMALL.floats));
    let halves = bytemuck::cast_slice(&copied).iter().map(|bits| bf16::from_bits(*bits).to_f32());
    let sizes = halves.chain(copied.iter().copied()).map(f32::abs);
    assert!(sizes.into_iter().all(|v| (0.5..=2.0).contains(&v)) && copied[0] != copied[1]);
}

#[test]
fn a_sweep_reads_all_of_its_buffer() {
    let mut driver = host(Libraries::None);
    // The last of the threads have less to read than the first.
    for (floats, threads) in [(4, THREADS), (4 * THREADS + 4, 2 * THREADS), (4 * 131_077, SWEEP_BLOCKS * THREADS)] {
        assert_eq!(sweep_threads(floats * 4), threads);
        let [from, to] = [floats, threads].map(|count| driver.alloc(count * 4).unwrap());
        let values: Vec<f32> = (0..floats).map(|i| (i % 13) as f32).collect();
        // SAFETY: as many floats.
        unsafe { driver.upload(from, bytemuck::cast_slice(&values)).unwrap() };
        let got = run(&mut driver, &sweep_kernel(from, floats * 4, to), to, threads);
        for (thread, got) in got.iter().enumerate() {
            let items = values.chunks_exact(4).skip(thread).step_by(threads);
            assert_eq!(*got, items.flatten().sum::<f32>(), "{thread}");
        }
    }
}

/// One of the algorithms always fails, and costs nothing.
#[test]
fn rates_are_measured_with_and_without_libraries() {
    for libraries in [Libraries::None, Libraries::Faster] {
        let mut driver = host(libraries);
        let peaks = measure(&mut driver, SMALL).unwrap();
        let rates = [Some(peaks.flops), peaks.tf32_flops, peaks.bf16_flops, Some(peaks.bandwidth)];
        assert!(rates.iter().all(|rate| rate.is_some_and(|r| r > 0.0 && r.is_finite())), "{peaks:?}");
        assert_eq!(driver.allocated(), 0);
    }
}

#[test]
fn less_memory_is_taken_where_there_is_not_enough() {
    let full = || Err(Error::DeviceMemory { message: "none is left".into() });
    // In 600 MiB two buffers of half the size fit, and the library's matrices into them.
    let in_600_mib = |floats: usize| if 2 * 4 * floats <= 600 << 20 { Ok(floats) } else { full() };
    let least = Size::GPU.least_floats(50 << 20);
    let (floats, size) = allocate(Size::GPU, least, in_600_mib).unwrap();
    assert_eq!((floats, size.floats, size.blocks), (1 << 26, 1 << 26, Size::GPU.blocks));
    for size in [Size::GPU, size, size.halved(), size.halved().halved()] {
        assert!(2 * size.side * size.side <= size.floats && size.side.is_multiple_of(256), "{size:?}");
    }
    // Never so little that a cache holds it or that results do not fit; all of it where no cache is known.
    for (cache, tried) in [(50 << 20, 2), (6 << 20, 5), (1 << 10, 6), (0, 1)] {
        let mut sizes = Vec::new();
        let least = Size::GPU.least_floats(cache);
        let none = allocate(Size::GPU, least, |floats| {
            sizes.push(floats);
            full()
        });
        assert!(none.is_err() && sizes.len() == tried, "{cache}: {sizes:?}");
    }
    // Other errors are not tried again with less.
    let mut tries = 0;
    let broken = allocate(Size::GPU, 1, |_| {
        tries += 1;
        Err::<(), _>(Error::device("broken"))
    });
    assert!(matches!(broken, Err(Error::Device { .. })) && tries == 1);
}
