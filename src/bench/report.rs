//! Results as text.

use std::fmt::{self, Display, Formatter};

use super::{BenchResult, LoaderResult, Profile};
use crate::device::Peaks;
use crate::table::Table;

impl Display for BenchResult {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let BenchResult { version, device, phase, batch, hr, .. } = self;
        writeln!(f, "srgan {version} · {device} · {phase}, {batch} patches of {hr} pixels a side")?;
        let mut table = Table::new(["step, median", &format!("{:.2} ms", self.step_ms_median)]);
        table.row([format!("step, fastest of {}", self.steps), format!("{:.2} ms", self.step_ms_min)]);
        table.row(["throughput", &format!("{:.2} patches/s", self.patches_per_s)]);
        table.row(["memory of the step", &format!("{:.1} MiB", self.step_mem_mib)]);
        table.row(["memory in all, peak", &format!("{:.1} MiB", self.peak_mem_mib)]);
        if let Some(share) = self.wait_share {
            table.row(["time waiting for data", &percent(share)]);
        }
        write!(f, "{table}")?;
        match &self.profile {
            Some(profile) => write!(f, "\n\n{profile}"),
            None => Ok(()),
        }
    }
}

impl Display for Profile {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        // GPUs do thousands of GFLOP/s.
        let (unit, giga) = if self.peaks.flops < 5e12 { ("GFLOP/s", 1.0) } else { ("TFLOP/s", 1e3) };
        let mut table = Table::new(["plan steps", "count", "ms", "share", unit, "GB/s", "roofline"]);
        let positive = |value: f64, text: String| if value > 0.0 { text } else { String::new() };
        for l in &self.lines {
            table.row([
                l.label.clone(),
                l.count.to_string(),
                format!("{:.3}", l.ms),
                percent(l.share),
                positive(l.gflop_s, format!("{:.1}", l.gflop_s / giga)),
                positive(l.gb_s, format!("{:.1}", l.gb_s)),
                positive(l.gb_s, percent(l.roofline_share)),
            ]);
        }
        let total: f64 = self.lines.iter().map(|l| l.ms).sum();
        let count: usize = self.lines.iter().map(|l| l.count).sum();
        table.row(["all".into(), count.to_string(), format!("{total:.3}")]);
        write!(
            f,
            "{table}\n\nroofline: the least time for operations and bytes at the measured peaks, {}, of the time \
             taken.\nConvolutions count the operations of the direct method and bytes are counted as if from memory: \
             Winograd's\nmethod and caches can bring it above 100 %.",
            self.peaks
        )?;
        let Profile { tflop, gb, arithmetic_ms, traffic_ms, least_ms, .. } = self;
        write!(
            f,
            "\nfloor: {tflop:.3} TFLOP take {arithmetic_ms:.3} ms at the peaks, all results, written and read once, "
        )?;
        write!(f, "{gb:.3} GB, {traffic_ms:.3} ms;\nthe roofline of one plan step after the other {least_ms:.3} ms.")
    }
}

/// `118 GFLOP/s and 21.5 GB/s`; of tensor cores also their rates.
impl Display for Peaks {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let rate = |flops: f64| match flops {
            ..5e12 => format!("{:.0} GFLOP/s", flops / 1e9),
            _ => format!("{:.1} TFLOP/s", flops / 1e12),
        };
        write!(f, "{}", rate(self.flops))?;
        for (name, units) in [("tf32", self.tf32_flops), ("bf16", self.bf16_flops)] {
            if let Some(flops) = units {
                write!(f, ", {} in {name}", rate(flops))?;
            }
        }
        write!(f, " and {:.1} GB/s", self.bandwidth / 1e9)
    }
}

impl Display for LoaderResult {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let LoaderResult { version, batch, hr, workers, epochs, patches_per_epoch, .. } = self;
        writeln!(f, "srgan {version} · loader, {workers} threads, batches of {batch} patches of {hr} pixels a side")?;
        writeln!(f, "{:.0} patches/s over {epochs} epochs of {patches_per_epoch} patches", self.patches_per_s)?;
        let mib = |v: Option<f64>| v.map_or("unknown".into(), |v| format!("{v:.1}"));
        let mut table = Table::new(["resident memory [MiB]", "first epoch", "last epoch"]);
        table.row(["private".into(), mib(self.private_mib_first), mib(self.private_mib_last)]);
        table.row(["pages of files".into(), mib(self.file_mib_first), mib(self.file_mib_last)]);
        write!(f, "{table}")
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
