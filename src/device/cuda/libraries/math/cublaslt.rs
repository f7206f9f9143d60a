//! Matrix products by cuBLASLt.
//!
//! Its matrices are stored by columns, so rows in memory are its columns, and the output's transpose is computed:
//! `outputᵀ = op(rhs)·op(lhs)`. Algorithms are named by the library's own 64 bytes.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::cublaslt::sys;

use super::api::{CublasLtApi, Heuristic, Object, check};
use super::{MOST_ALGORITHMS, Place, WORKSPACE_BYTES};
use crate::device::cuda::launch::library::{Factor, Layout, Product};
use crate::device::cuda::libraries::search::SearchPath;
use crate::device::cuda::libraries::{Library, Loaded, Version};
use crate::types::{Element, Precision};
use crate::{Error, Result};

const PREFIX: &str = "cublaslt:";

/// The library, with what was made ready.
pub(super) struct CublasLt {
    library: Loaded,
    api: Arc<CublasLtApi>,
    handle: Object,
    ready: HashMap<(Product, String), (Descriptors, [u64; 8])>,
}

impl CublasLt {
    /// # Errors
    /// Fails if the library is not there, lacks a function, or does not start.
    pub fn open(search: &SearchPath, driver: Version) -> Result<CublasLt> {
        let library = Library::CublasLt.load(search, Some(driver))?;
        let api = Arc::new(CublasLtApi::of(&library)?);
        let mut handle = null_mut();
        // SAFETY: destroyed on drop.
        check("cublasLtCreate", unsafe { (api.create)(&mut handle) })?;
        Ok(CublasLt { library, api, handle, ready: HashMap::new() })
    }

    pub fn library(&self) -> &Loaded {
        &self.library
    }

    /// Those that the library expects to be fastest. None adds with atomics or in the output.
    pub fn algorithms(&mut self, product: &Product) -> Vec<String> {
        self.heuristics(product).unwrap_or_default().iter().map(name).collect()
    }

    fn heuristics(&self, product: &Product) -> Result<Vec<[u64; 8]>> {
        let d = Descriptors::new(&self.api, product)?;
        let preference = Preference::new(&self.api, product)?;
        let mut found = [Heuristic::default(); MOST_ALGORITHMS];
        let mut count = 0;
        // SAFETY: descriptors that live; as many results as there is room for.
        let status = unsafe {
            (self.api.heuristic)(
                self.handle,
                d.product,
                d.layouts[0],
                d.layouts[1],
                d.layouts[2],
                d.layouts[2],
                preference.object,
                found.len() as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        check("cublasLtMatmulAlgoGetHeuristic", status)?;
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        Ok(found.filter(|h| fits(h)).map(|h| h.algorithm).collect())
    }

    /// # Errors
    /// Fails if the algorithm is none of this library's or does not compute the product.
    pub fn prepare(&mut self, product: &Product, algorithm: &str) -> Result<()> {
        let key = (*product, algorithm.to_owned());
        if self.ready.contains_key(&key) {
            return Ok(());
        }
        let unknown = || Error::device(format!("cuBLASLt has no algorithm {algorithm}"));
        let bytes = parse(algorithm).ok_or_else(unknown)?;
        let d = Descriptors::new(&self.api, product)?;
        let mut answer = Heuristic::default();
        let [a, b, c] = d.layouts;
        // SAFETY: descriptors that live.
        let status = unsafe { (self.api.check)(self.handle, d.product, a, b, c, c, &bytes, &mut answer) };
        check("cublasLtMatmulAlgoCheck", status)?;
        if !fits(&answer) {
            return Err(unknown());
        }
        self.ready.insert(key, (d, bytes));
        Ok(())
    }

    /// # Errors
    /// Fails if it was not made ready, or the library reports an error.
    ///
    /// # Safety
    /// The operands lie in the GPU's memory as the product says, and the place has its workspace.
    pub unsafe fn call(
        &mut self,
        product: &Product,
        algorithm: &str,
        [lhs, rhs, output]: [*mut c_void; 3],
        place: Place,
    ) -> Result<()> {
        let ready = self.ready.get(&(*product, algorithm.to_owned()));
        let (d, algorithm) = ready.ok_or_else(|| Error::Internal(format!("{algorithm} was not made ready")))?;
        let (one, zero) = (1f32, 0f32);
        let [a, b, c] = d.layouts;
        // SAFETY: the caller's; factors are read from the host's memory when the call is made.
        let status = unsafe {
            (self.api.product)(
                self.handle,
                d.product,
                (&raw const one).cast(),
                rhs,
                a,
                lhs,
                b,
                (&raw const zero).cast(),
                output,
                c,
                output,
                c,
                algorithm,
                place.workspace.0 as *mut c_void,
                WORKSPACE_BYTES,
                place.stream,
            )
        };
        check("cublasLtMatmul", status)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.ready.clear();
        // SAFETY: created, and destroyed once.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// Whether an answer is an algorithm that can be used.
fn fits(answer: &Heuristic) -> bool {
    answer.state == 0 && answer.workspace_bytes <= WORKSPACE_BYTES
}

fn name(algorithm: &[u64; 8]) -> String {
    algorithm.iter().fold(PREFIX.to_owned(), |text, word| format!("{text}{word:016x}"))
}

fn parse(name: &str) -> Option<[u64; 8]> {
    let digits = name.strip_prefix(PREFIX).filter(|digits| digits.len() == 128 && digits.is_ascii())?;
    let mut words = [0; 8];
    for (i, word) in words.iter_mut().enumerate() {
        *word = u64::from_str_radix(&digits[16 * i..16 * (i + 1)], 16).ok()?;
    }
    Some(words)
}

fn data_type(element: Element) -> u32 {
    match element {
        Element::F32 => sys::cudaDataType_t::CUDA_R_32F as u32,
        Element::Bf16 => sys::cudaDataType_t::CUDA_R_16BF as u32,
    }
}

/// The library's description of a product: `rhs`, `lhs` and output as matrices by columns.
struct Descriptors {
    api: Arc<CublasLtApi>,
    product: Object,
    layouts: [Object; 3],
}

impl Descriptors {
    fn new(api: &Arc<CublasLtApi>, p: &Product) -> Result<Descriptors> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        let mut all = Descriptors { api: api.clone(), product: null_mut(), layouts: [null_mut(); 3] };
        // Sums in f32; of f32 factors no digit is dropped unless tf32 is asked for.
        let compute = match p.precision {
            Precision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::F32 | Precision::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let (compute, scale) = (compute as u32, data_type(Element::F32));
        // SAFETY: destroyed on drop, as are the layouts.
        check("cublasLtMatmulDescCreate", unsafe { (api.product_create)(&mut all.product, compute, scale) })?;
        // Rows in memory are the library's columns: `rhs` has to be columns × inner, `lhs` inner × rows.
        all.set_transposed(CUBLASLT_MATMUL_DESC_TRANSA as u32, p.rhs.inner_in_row)?;
        all.set_transposed(CUBLASLT_MATMUL_DESC_TRANSB as u32, !p.lhs.inner_in_row)?;
        let stored = |factor: &Factor, outer| if factor.inner_in_row { (p.inner, outer) } else { (outer, p.inner) };
        let extents = [stored(&p.rhs, p.columns), stored(&p.lhs, p.rows), (p.columns, p.rows)];
        let layouts: [&Layout; 3] = [&p.rhs.layout, &p.lhs.layout, &p.output];
        for (i, ((rows, columns), layout)) in extents.into_iter().zip(layouts).enumerate() {
            let (kind, stride) = (data_type(layout.element), layout.stride as i64);
            // SAFETY: as above.
            let status = unsafe { (api.layout_create)(&mut all.layouts[i], kind, rows as u64, columns as u64, stride) };
            check("cublasLtMatrixLayoutCreate", status)?;
        }
        Ok(all)
    }

    fn set_transposed(&self, attribute: u32, transposed: bool) -> Result<()> {
        // CUBLAS_OP_T, CUBLAS_OP_N of cublas_api.h.
        let operation = i32::from(transposed);
        // SAFETY: the attribute is an `int32_t`.
        let status = unsafe { (self.api.product_set)(self.product, attribute, (&raw const operation).cast(), 4) };
        check("cublasLtMatmulDescSetAttribute", status)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: created, and destroyed once.
        unsafe {
            self.layouts.iter().filter(|l| !l.is_null()).for_each(|layout| _ = (self.api.layout_destroy)(*layout));
            if !self.product.is_null() {
                (self.api.product_destroy)(self.product);
            }
        }
    }
}

/// What algorithms may take.
struct Preference<'a> {
    api: &'a CublasLtApi,
    object: Object,
}

impl Preference<'_> {
    fn new<'a>(api: &'a CublasLtApi, p: &Product) -> Result<Preference<'a>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // Parts of sums are kept in f32 and added in a fixed order.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let mut preference = Preference { api, object: null_mut() };
        // SAFETY: destroyed on drop.
        check("cublasLtMatmulPreferenceCreate", unsafe { (api.preference_create)(&mut preference.object) })?;
        let bytes = (WORKSPACE_BYTES as u64).to_ne_bytes();
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes.to_ne_bytes())?;
        for (attribute, layout) in [
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &p.rhs.layout),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p.lhs.layout),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p.output),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p.output),
        ] {
            preference.set(attribute, &(layout.align as u32).to_ne_bytes())?;
        }
        Ok(preference)
    }

    fn set(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &[u8]) -> Result<()> {
        // SAFETY: the attribute has as many bytes.
        let status =
            unsafe { (self.api.preference_set)(self.object, attribute as u32, value.as_ptr().cast(), value.len()) };
        check("cublasLtMatmulPreferenceSetAttribute", status)
    }
}

impl Drop for Preference<'_> {
    fn drop(&mut self) {
        if !self.object.is_null() {
            // SAFETY: created, and destroyed once.
            unsafe { (self.api.preference_destroy)(self.object) };
        }
    }
}

/// Whether the library takes a description, which needs neither a handle nor a GPU.
#[cfg(test)]
pub(super) fn check_description(api: &Arc<CublasLtApi>, product: &Product) -> Result<()> {
    Descriptors::new(api, product)?;
    Preference::new(api, product).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_the_same_after_being_named() {
        let algorithm = [1, u64::MAX, 3, 0, 0x0123_4567_89ab_cdef, 6, 7, 8];
        assert_eq!(parse(&name(&algorithm)), Some(algorithm));
        for wrong in
            ["", "cublaslt:", "cudnn:3", "cublaslt:12", &name(&algorithm)[1..], &name(&algorithm).replace('f', "x")]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
