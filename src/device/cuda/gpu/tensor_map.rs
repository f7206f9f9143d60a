//! Tensor maps in the form that a GPU's copy engine reads.

use std::ffi::c_void;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use crate::Result;
use crate::device::cuda::TensorMap;
use crate::device::cuda::launch::args::ArgsContent;
use crate::device::cuda::libraries::Loaded;
use crate::types::Element;

/// `cuTensorMapEncodeTiled` of cuda.h.
type Encode = unsafe extern "C" fn(
    *mut CUtensorMap,
    CUtensorMapDataType,
    u32,
    *mut c_void,
    *const u64,
    *const u64,
    *const u32,
    *const u32,
    CUtensorMapInterleave,
    CUtensorMapSwizzle,
    CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill,
) -> CUresult;

/// The driver's encoding.
#[derive(Debug)]
pub(super) struct Encoder {
    encode: Encode,
}

impl Encoder {
    /// That of the driver's library.
    ///
    /// # Errors
    /// Fails if the driver's library lacks it.
    pub fn new(driver: &Loaded) -> Result<Encoder> {
        // SAFETY: the type is that of cuda.h since CUDA 12.0.
        Ok(Encoder { encode: unsafe { driver.function("cuTensorMapEncodeTiled")? } })
    }

    /// The bytes of an argument struct, its tensor maps encoded.
    ///
    /// # Errors
    /// Fails if the copy engine cannot copy boxes of these extents.
    pub fn encoded(&self, args: &ArgsContent) -> Result<Vec<u8>, DriverError> {
        let mut bytes = args.bytes.clone();
        for at in &args.tensor_maps {
            let record = &mut bytes[*at..*at + TensorMap::BYTES];
            let words = self.encode(&TensorMap::of_record(record))?.opaque;
            record.chunks_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        }
        Ok(bytes)
    }

    fn encode(&self, map: &TensorMap) -> Result<CUtensorMap, DriverError> {
        let mut encoded = CUtensorMap { opaque: [0; 16] };
        let extents = map.extents.map(|n| n as u64);
        let strides = map.strides.map(|n| (n * Element::Bf16.size()) as u64);
        let steps = map.steps.map(|n| n as u32);
        // The driver counts what steps leave out.
        let extents_of_box: [u32; TensorMap::AXES] =
            std::array::from_fn(|axis| (map.extents_of_box[axis] as u32 - 1) * steps[axis] + 1);
        let swizzle = match map.swizzle {
            32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            _ => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        };
        // SAFETY: the arrays have an entry for each axis, the strides for each but the first.
        unsafe {
            (self.encode)(
                &mut encoded,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                TensorMap::AXES as u32,
                map.ptr.0 as *mut c_void,
                extents.as_ptr(),
                strides.as_ptr(),
                extents_of_box.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()?;
        Ok(encoded)
    }
}
