//! Tensor maps: encoded by the driver when a kernel is launched, followed by the copy engine.

use std::sync::Arc;

use srgan::device::cuda::driver::{Driver, Geometry, Launch, ModuleSource};
use srgan::device::cuda::{ArgsContent, TensorMap};

use super::{download, open};

/// A tensor of 2 images of 3 by 5 pixels of 16 channels, in planes of 8 channels.
const TENSOR: [usize; TensorMap::AXES] = [8, 5, 3, 2, 2];
const STRIDES: [usize; TensorMap::AXES - 1] = [16, 5 * 16, 8, 3 * 5 * 16];
const BOX: [usize; TensorMap::AXES] = [8, 4, 2, 2, 1];
const BOX_LEN: usize = 128;

/// Writes the box at its place as floats.
fn copy_box() -> ModuleSource {
    let text = "struct Args { TensorMap map; float* y; int at[5]; };\n\
        __device__ void body(const Args& a) {\n\
          DYNAMIC_SHARED(unsigned short, box);\n\
          SHARED(uint64_t, full, [1]);\n\
          if (threadIdx.x == 0) { barrier_init(full, 1); barrier_init_done(); }\n\
          __syncthreads();\n\
          if (threadIdx.x == 0) {\n\
            barrier_arrive_for(full, 128 * 2);\n\
            copy_box(box, a.map, full, a.at[0], a.at[1], a.at[2], a.at[3], a.at[4]);\n\
          }\n\
          barrier_wait(full, 0);\n\
          a.y[threadIdx.x] = __uint_as_float(unsigned(box[threadIdx.x]) << 16);\n\
        }\n\
        ENTRY(copy_box, body, Args, 128)\n";
    ModuleSource { name: "copy_box".into(), text: text.into(), kernels: vec!["copy_box".into()] }
}

/// Element `i` of a box at `at`, in a tensor whose elements are their own numbers; 0 outside.
fn expected(map: &TensorMap, at: [i32; TensorMap::AXES], mut i: usize) -> f32 {
    let mut element = 0;
    for axis in 0..TensorMap::AXES {
        let place = i64::from(at[axis]) + (i % BOX[axis] * map.steps[axis]) as i64;
        i /= BOX[axis];
        match usize::try_from(place) {
            Ok(place) if place < TENSOR[axis] => element += place * if axis == 0 { 1 } else { STRIDES[axis - 1] },
            _ => return 0.0,
        }
    }
    // 8 bits are exact in bf16.
    (element % 256) as f32
}

pub fn boxes() {
    let mut gpu = open(false);
    if !gpu.has_warpgroups() {
        println!("gpu_driver: boxes: SKIPPED: {} copies no boxes of tensors", gpu.describe());
        return;
    }
    let function = gpu.compile(&[copy_box()], &mut |_| ()).unwrap()[0][0];
    let elements = TENSOR.iter().product::<usize>();
    let (x, y) = (gpu.alloc(elements * 2).unwrap(), gpu.alloc(BOX_LEN * 4).unwrap());
    let values: Vec<u8> = (0..elements).flat_map(|i| ((i % 256) as f32).to_le_bytes()[2..].to_vec()).collect();
    // SAFETY: allocated with this size.
    unsafe { gpu.upload(x, &values).unwrap() };
    let map = TensorMap { ptr: x, extents: TENSOR, strides: STRIDES, steps: [1; 5], extents_of_box: BOX, swizzle: 0 };
    let every_other = TensorMap { steps: [1, 2, 2, 1, 1], ..map };
    let launch = |map: TensorMap, at: [i32; TensorMap::AXES]| {
        let mut bytes = [&map.record()[..], &y.0.to_le_bytes()].concat();
        bytes.extend(at.iter().flat_map(|c| c.to_le_bytes()));
        bytes.resize(256, 0);
        let geometry = Geometry { grid: [1; 3], block: [128, 1, 1], shared_bytes: BOX_LEN as u32 * 2 };
        let args = ArgsContent { bytes, tensor_maps: vec![0] };
        Launch { function, geometry, args, path: Arc::from("generator.head") }
    };
    let places =
        [[0, 0, 0, 0, 0], [0, 1, 1, 0, 1], [0, -1, -1, 0, 0], [0, 3, 2, 1, 1], [0, 9, 0, 0, 0], [0, 0, 0, 0, 2]];
    for (map, at) in [map, every_other].iter().flat_map(|map| places.map(|at| (map, at))) {
        // SAFETY: the arguments are the kernel's.
        unsafe { gpu.launch(&launch(*map, at)).unwrap() };
        let want: Vec<f32> = (0..BOX_LEN).map(|i| expected(map, at, i)).collect();
        assert_eq!(download(&mut gpu, y, BOX_LEN), want, "{map:?} at {at:?}");
    }
    // What the copy engine does not know is refused before anything is launched.
    for map in [
        TensorMap { strides: [16, 5 * 16, 8, 3 * 5 * 16 + 4], ..map },
        TensorMap { extents_of_box: [8, 257, 2, 2, 1], ..map },
        TensorMap { ptr: x.offset_by(8), ..map },
        TensorMap { steps: [1, 9, 1, 1, 1], ..map },
        TensorMap { extents_of_box: [64, 4, 2, 2, 1], swizzle: 32, ..map },
    ] {
        // SAFETY: the arguments are the kernel's.
        let error = unsafe { gpu.launch(&launch(map, [0; 5])).unwrap_err().to_string() };
        assert!(error.contains("kernel copy_box of generator.head"), "{error}");
    }
}
