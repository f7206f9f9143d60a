//! What a device can do at most, and what a piece of work asks of it.

use serde::Serialize;

use crate::types::Precision;

/// The most that a device can do, measured with the threads and the instruction set that it computes with. A multiply-add
/// counts as two operations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Operations per second of f32 multiply-adds in registers.
    pub flops: f64,
    /// The same of products of matrices in tf32, where the device has units for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf32_flops: Option<f64>,
    /// The same in bf16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bf16_flops: Option<f64>,
    /// Bytes per second of a copy larger than the caches, read and written bytes counted.
    pub bandwidth: f64,
}

impl Peaks {
    /// Operations per second in a precision; without units for it, those in f32.
    pub fn rate(&self, precision: Precision) -> f64 {
        let units = match precision {
            Precision::F32 => None,
            Precision::Tf32 => self.tf32_flops,
            Precision::Bf16 => self.bf16_flops,
        };
        units.unwrap_or(self.flops)
    }

    /// Seconds that this work takes at least: the longer of its arithmetic and its traffic (the roofline model,
    /// Williams, Waterman and Patterson 2009).
    pub fn least_time(&self, work: &Workload) -> f64 {
        self.arithmetic_time(work).max(self.traffic_time(work))
    }

    /// Seconds that the operations take.
    pub fn arithmetic_time(&self, work: &Workload) -> f64 {
        work.flops as f64 / self.rate(work.precision)
    }

    /// Seconds that the bytes take.
    pub fn traffic_time(&self, work: &Workload) -> f64 {
        work.bytes() as f64 / self.bandwidth
    }
}

/// What a part of a plan has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Operations, two per multiply-add; 0 where there are no products to count.
    pub flops: u64,
    /// In which precision.
    pub precision: Precision,
    /// Bytes that are read, each location once.
    pub read: u64,
    /// Bytes that are written.
    pub written: u64,
}

impl Workload {
    /// Bytes that are read and written. What is read and overwritten counts twice.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }
}
