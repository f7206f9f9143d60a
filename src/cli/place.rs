//! Where and how a trained generator runs, as several commands take it.

use clap::Args;

#[derive(Args)]
pub struct PlaceArgs {
    /// Where to run
    #[arg(long, value_name = "cpu|cuda|auto")]
    device: Option<String>,
    /// Precision on a GPU [default: that of the configuration]
    #[arg(long, value_name = "auto|bf16|tf32|f32")]
    precision: Option<String>,
    /// Instruction set of the CPU
    #[arg(long, value_name = "auto|avx512|avx2|neon|portable")]
    isa: Option<String>,
    /// Compute threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
}

impl PlaceArgs {
    /// The overrides of a configuration that say the same.
    pub fn overrides(self) -> Vec<String> {
        let named = [
            ("device", self.device),
            ("precision", self.precision),
            ("isa", self.isa),
            ("num_threads", self.threads.map(|n| n.to_string())),
        ];
        named.into_iter().filter_map(|(key, value)| Some(format!("Training.{key}={}", value?))).collect()
    }
}
