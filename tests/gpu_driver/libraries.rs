//! Convolutions and matrix products by libraries, against plain loops over the same description: whatever the
//! descriptors that the library was given say, its results are those of the description.

use srgan::device::cuda::driver::{DevicePtr, Driver, Work};
use srgan::device::cuda::host::{HostDriver, HostOptions, Libraries};
use srgan::device::cuda::launch::library::LibraryLaunch;
use srgan::device::cuda::{Convolution, Factor, Layout, LibraryCall, LibraryOp, Product};
use srgan::types::{ConvShape, Element, Pass, Precision};

use super::{launch, open};

/// An operand: pixels or rows, and its layout; each row starts `first` elements into a wider one.
#[derive(Clone, Copy)]
struct Operand {
    rows: usize,
    layout: Layout,
    first: usize,
}

impl Operand {
    fn new(rows: usize, stride: usize, first: usize, element: Element) -> Operand {
        let offset = first * element.size();
        let align = [16, 8, 4, 2].into_iter().find(|a| offset.is_multiple_of(*a)).unwrap();
        Operand { rows, layout: Layout { element, stride, align }, first }
    }

    fn bytes(&self) -> usize {
        (self.rows * self.layout.stride + self.first) * self.layout.element.size()
    }
}

/// Numbers without a pattern, in -1 to 1, as elements.
fn noise(count: usize, element: Element, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..count)
        .flat_map(|_| match element {
            Element::F32 => next().to_le_bytes().to_vec(),
            Element::Bf16 => next().to_le_bytes()[2..].to_vec(),
        })
        .collect()
}

fn floats(bytes: &[u8], element: Element) -> Vec<f32> {
    let widen = |b: &[u8]| f32::from_le_bytes([0, 0, b[0], b[1]]);
    match element {
        Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Element::Bf16 => bytes.chunks_exact(2).map(widen).collect(),
    }
}

/// The operands' memory on a driver: noise in all of them.
fn upload(driver: &mut dyn Driver, operands: &[Operand; 3]) -> [DevicePtr; 3] {
    let mut seed = 0;
    operands.map(|operand| {
        seed += 1;
        let bytes = noise(operand.bytes() / operand.layout.element.size(), operand.layout.element, seed);
        let ptr = driver.alloc(bytes.len()).unwrap();
        // SAFETY: allocated with as many bytes.
        unsafe { driver.upload(ptr, &bytes).unwrap() };
        ptr
    })
}

fn download(driver: &mut dyn Driver, from: DevicePtr, operand: &Operand) -> Vec<f32> {
    let mut bytes = vec![0; operand.bytes()];
    // SAFETY: allocated with as many bytes.
    unsafe { driver.download(&mut bytes, from).unwrap() };
    floats(&bytes, operand.layout.element)
}

fn call(op: LibraryOp, bases: [DevicePtr; 3], operands: &[Operand; 3], algorithm: &str) -> LibraryLaunch {
    let at = |i: usize| bases[i].offset_by(operands[i].first * operands[i].layout.element.size());
    let call = LibraryCall { op, operands: [at(0), at(1), at(2)] };
    LibraryLaunch { call, algorithm: algorithm.into(), path: "generator.head".into() }
}

/// Every algorithm that the GPU offers for `op` gives what plain loops give, writes nothing else, and gives the same
/// bits again from a graph. Says how many there were.
fn check(gpu: &mut dyn Driver, host: &mut HostDriver, op: LibraryOp, operands: &[Operand; 3], written: usize) -> usize {
    let on_host = upload(host, operands);
    // SAFETY: memory as the description says, here and below.
    unsafe { host.call(&call(op, on_host, operands, "host:plain")).unwrap() };
    let want = download(host, on_host[written], &operands[written]);
    let algorithms = gpu.algorithms(&op);
    for algorithm in &algorithms {
        let bases = upload(gpu, operands);
        let launch = call(op, bases, operands, algorithm);
        unsafe { gpu.call(&launch).unwrap() };
        let got = download(gpu, bases[written], &operands[written]);
        let tolerance = match (&op, operands[written].layout.element) {
            (_, Element::Bf16) => 1.0 / 128.0,
            (LibraryOp::Convolution(c), Element::F32) if c.precision == Precision::Tf32 => 1.0 / 512.0,
            _ => 1e-5,
        };
        let norm = want.iter().map(|v| v * v).sum::<f32>().sqrt();
        let distance = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        assert!(distance <= tolerance * norm, "{algorithm} of {op}: distance {distance}, norm {norm}");
        // From a graph, over noise again.
        let again = upload(gpu, operands);
        let work = [Work::Library(call(op, again, operands, algorithm))];
        unsafe {
            let graph = gpu.record(&work).unwrap();
            gpu.replay(graph).unwrap();
        }
        assert_eq!(download(gpu, again[written], &operands[written]), got, "{algorithm} of {op}");
        let others = (0..3).filter(|i| *i != written);
        others
            .for_each(|i| assert_eq!(download(gpu, again[i], &operands[i]), download(host, on_host[i], &operands[i])));
    }
    algorithms.len()
}

/// Convolutions of every kind that networks have: strides, even kernels, dilated and depthwise ones, channel slices.
fn convolutions() -> Vec<(LibraryOp, [Operand; 3], usize)> {
    let plain = ConvShape::square([2, 9, 7, 16], 8, 3, 1, 1).unwrap();
    let even = ConvShape::square([1, 8, 8, 8], 16, 4, 2, 1).unwrap();
    let dilated = ConvShape { dilation: 3, pad: 3, ..plain };
    let depthwise = ConvShape { depthwise: true, out_ch: 16, pad: 3, dilation: 3, ..plain };
    let mut all = Vec::new();
    for shape in [plain, even, dilated, depthwise] {
        for (pass, written) in [(Pass::Forward, 2), (Pass::InputGrad, 0), (Pass::WeightGrad, 1)] {
            for (element, precision) in
                [(Element::F32, Precision::F32), (Element::F32, Precision::Tf32), (Element::Bf16, Precision::Bf16)]
            {
                for gap in [0, 8] {
                    let pixels = shape.batch * shape.in_h * shape.in_w;
                    let input = Operand::new(pixels, shape.in_ch + 3 * gap, gap, element);
                    let filters = shape.weight_len() / shape.weight_in_ch();
                    let weight = Operand::new(filters, shape.weight_in_ch(), 0, element);
                    let pixels = shape.batch * shape.out_h * shape.out_w;
                    let output = Operand::new(pixels, shape.out_ch + 2 * gap, gap, element);
                    let [i, w, o] = [input.layout, weight.layout, output.layout];
                    let op = Convolution { pass, shape, input: i, weight: w, output: o, precision };
                    all.push((LibraryOp::Convolution(op), [input, weight, output], written));
                }
            }
        }
    }
    all
}

/// Products of factors that run along their rows and across them, on rows of wider matrices.
fn products() -> Vec<(LibraryOp, [Operand; 3], usize)> {
    let (rows, columns, inner) = (6, 20, 12);
    let mut all = Vec::new();
    for (lhs_in_row, rhs_in_row) in [(true, true), (true, false), (false, true), (false, false)] {
        for element in [Element::F32, Element::Bf16] {
            for gap in [0, 4] {
                let operand = |outer: usize, in_row: bool| {
                    let (rows, length) = if in_row { (outer, inner) } else { (inner, outer) };
                    Operand::new(rows, length + 2 * gap, gap, element)
                };
                let (lhs, rhs) = (operand(rows, lhs_in_row), operand(columns, rhs_in_row));
                let output = Operand::new(rows, columns + gap, gap, Element::F32);
                let product = Product {
                    rows,
                    columns,
                    inner,
                    lhs: Factor { layout: lhs.layout, inner_in_row: lhs_in_row },
                    rhs: Factor { layout: rhs.layout, inner_in_row: rhs_in_row },
                    output: output.layout,
                    precision: Precision::F32,
                };
                all.push((LibraryOp::Product(product), [lhs, rhs, output], 2));
            }
        }
    }
    all
}

/// Libraries' results, what is refused, and how long work takes.
pub fn calls() {
    let mut gpu = open(false);
    let is_stand_in = gpu.describe().starts_with("Stand-in");
    let folder = tempfile::tempdir().unwrap();
    let mut host =
        HostDriver::new(folder.path(), HostOptions { libraries: Libraries::Faster, ..HostOptions::default() }).unwrap();
    for (library, cases) in [("cuDNN", convolutions()), ("cuBLASLt", products())] {
        if !gpu.timed_on().contains(library) {
            println!("gpu_driver: libraries: SKIPPED: {library} is not there");
            assert!(!is_stand_in);
            continue;
        }
        let counts: Vec<usize> =
            cases.iter().map(|(op, o, written)| check(&mut gpu, &mut host, *op, o, *written)).collect();
        println!("gpu_driver: libraries: {library}: {} cases, {} calls", counts.len(), counts.iter().sum::<usize>());
        assert!(counts.iter().any(|count| *count > 0), "{library} computes nothing");
        assert!(!is_stand_in || counts.iter().all(|count| *count > 0), "{counts:?}");
        let (op, operands, _) = cases[0];
        for wrong in ["own", "cudnn:", "cudnn:99999:", "cublaslt:", "host:plain", ""] {
            gpu.prepare(&op, wrong).unwrap_err();
            let bases = upload(&mut gpu, &operands);
            // SAFETY: refused before anything runs.
            let error = unsafe { gpu.record(&[Work::Library(call(op, bases, &operands, wrong))]).unwrap_err() };
            assert!(matches!(error, srgan::Error::Device { .. }), "{error}");
        }
        assert!(gpu.choices_file().is_some());
    }
    if is_stand_in {
        only_what_may_be_taken(&mut gpu);
    }
}

/// The stand-ins offer algorithms that change from run to run, that drop digits of f32, and that take too much memory,
/// and say how long each takes; a kernel takes ten microseconds.
fn only_what_may_be_taken(gpu: &mut srgan::device::cuda::GpuDriver) {
    let (op, operands, _) = convolutions()[0];
    assert_eq!(gpu.algorithms(&op), ["cudnn:3:2=2,12=-7", "cudnn:3:2=4,12=-7"]);
    let LibraryOp::Convolution(c) = op else { panic!("a convolution") };
    let low = LibraryOp::Convolution(Convolution { precision: Precision::Tf32, ..c });
    assert_eq!(gpu.algorithms(&low), ["cudnn:8:", "cudnn:3:2=2,12=-7", "cudnn:3:2=4,12=-7"]);
    let product = products()[0].0;
    let names = gpu.algorithms(&product);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("cublaslt:000000000000abc0") && names[0].ends_with("1"), "{names:?}");

    let functions = super::compile(gpu);
    let bases = upload(gpu, &operands);
    let kernel = Work::Kernel(launch(functions[0], 1, 256, bases[0], bases[0], 4));
    let slow = Work::Library(call(op, bases, &operands, "cudnn:3:2=4,12=-7"));
    let time = |gpu: &mut srgan::device::cuda::GpuDriver, work: &[Work]| {
        // SAFETY: kernels and memory as above.
        unsafe { gpu.time(work).unwrap().as_secs_f64() * 1e6 }
    };
    for (work, microseconds) in [
        (vec![kernel.clone()], 10.0),
        (vec![slow.clone()], 4.0),
        (vec![slow.clone(), kernel.clone(), kernel.clone()], 24.0),
        (vec![], 0.0),
    ] {
        assert!((time(gpu, &work) - microseconds).abs() < 0.01, "{} instead of {microseconds}", time(gpu, &work));
    }
    let between = [kernel.clone(), slow.clone(), kernel.clone()];
    let parts: [&[Work]; 4] = [&[slow], &[], &between, &[kernel]];
    // SAFETY: as above.
    let times = unsafe { gpu.run_timed(&parts).unwrap() };
    let microseconds: Vec<f64> = times.iter().map(|time| (time.as_secs_f64() * 1e7).round() / 10.0).collect();
    assert_eq!(microseconds, [4.0, 0.0, 24.0, 10.0]);
}
