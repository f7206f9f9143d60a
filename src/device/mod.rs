//! The devices that plans run on.

pub mod cpu;
