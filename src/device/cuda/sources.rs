//! The text of the kernels, which `build.rs` embeds from `kernels/`.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
