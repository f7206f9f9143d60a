//! Descriptors of cuDNN's graph API: objects with typed attributes, which are set, made final, then read.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptorType_t as Kind,
};

use super::api::{CudnnApi, Object, check};
use crate::Result;

/// An object of the library, destroyed on drop.
pub(super) struct Descriptor {
    api: Arc<CudnnApi>,
    object: Object,
}

impl Descriptor {
    /// An object without attributes.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn new(api: &Arc<CudnnApi>, kind: Kind) -> Result<Descriptor> {
        let mut object = null_mut();
        // SAFETY: destroyed on drop.
        let status = unsafe { (api.descriptor_create)(kind as u32, &mut object) };
        check(&format!("{kind:?}"), status)?;
        Ok(Descriptor { api: api.clone(), object })
    }

    /// For calls of the library.
    pub fn object(&self) -> Object {
        self.object
    }

    /// Sets an attribute to elements of a type.
    ///
    /// # Errors
    /// Fails if the object has no such attribute or the library refuses the value.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<()> {
        let (count, elements) = (values.len() as i64, values.as_ptr().cast::<c_void>());
        // SAFETY: as many elements of the type that `kind` says, which the callers below see to.
        let status = unsafe { (self.api.descriptor_set)(self.object, name as u32, kind as u32, count, elements) };
        check(&format!("{name:?}"), status)
    }

    /// Sets numbers.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_numbers(&self, name: Name, values: &[i64]) -> Result<()> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    /// Sets a factor.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_float(&self, name: Name, value: f32) -> Result<()> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    /// Sets a value of one of the library's enumerations.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_enum(&self, name: Name, kind: Type, value: u32) -> Result<()> {
        self.set(name, kind, &[value])
    }

    /// Sets other objects.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_objects(&self, name: Name, others: &[&Descriptor]) -> Result<()> {
        let objects: Vec<Object> = others.iter().map(|d| d.object).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &objects)
    }

    /// Sets the library's handle.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_handle(&self, name: Name, handle: Object) -> Result<()> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[handle])
    }

    /// Sets addresses.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn set_pointers(&self, name: Name, addresses: &[*mut c_void]) -> Result<()> {
        self.set(name, Type::CUDNN_TYPE_VOID_PTR, addresses)
    }

    /// Ends the setting of attributes.
    ///
    /// # Errors
    /// Fails if the library cannot do what the object says.
    pub fn finalize(self) -> Result<Descriptor> {
        // SAFETY: the object lives.
        check("cudnnBackendFinalize", unsafe { (self.api.descriptor_finalize)(self.object) })?;
        Ok(self)
    }

    /// Reads as many elements as there are, `most` at most.
    fn get<T: Copy>(&self, name: Name, kind: Type, mut values: Vec<T>) -> Result<Vec<T>> {
        let mut count = 0;
        let (room, elements) = (values.len() as i64, values.as_mut_ptr().cast());
        // SAFETY: room for as many elements of the type that `kind` says.
        let status =
            unsafe { (self.api.descriptor_get)(self.object, name as u32, kind as u32, room, &mut count, elements) };
        check(&format!("{name:?}"), status)?;
        values.truncate(usize::try_from(count).unwrap_or(0));
        Ok(values)
    }

    /// A number.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn number(&self, name: Name) -> Result<i64> {
        Ok(self.get(name, Type::CUDNN_TYPE_INT64, vec![0i64])?.first().copied().unwrap_or(0))
    }

    /// Values of one of the library's enumerations, `most` at most.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn enums(&self, name: Name, kind: Type, most: usize) -> Result<Vec<u32>> {
        self.get(name, kind, vec![0u32; most])
    }

    /// Objects of a kind, `most` at most. The library fills objects that the caller makes.
    ///
    /// # Errors
    /// Fails if the library reports an error.
    pub fn objects(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>> {
        let mut made = (0..most).map(|_| Descriptor::new(&self.api, kind)).collect::<Result<Vec<_>>>()?;
        let objects = made.iter().map(|d| d.object).collect();
        let filled = self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, objects)?.len();
        made.truncate(filled);
        Ok(made)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created, and destroyed once.
        unsafe { (self.api.descriptor_destroy)(self.object) };
    }
}
