//! What each kind of plan step costs, and how near it comes to what the machine can do.

use serde::Serialize;

use super::rounded;
use crate::device::{Peaks, Workload};
use crate::runtime::PartTime;

/// The parts of a training step by kind, the costliest first, and what the whole step has to do.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// What the machine can do at most.
    pub peaks: Peaks,
    /// Operations of a training step, in 10¹².
    pub tflop: f64,
    /// Bytes of all its results, each written once and read once, in 10⁹.
    pub gb: f64,
    /// Milliseconds that the operations take at the machine's peaks, each in its precision.
    pub arithmetic_ms: f64,
    /// Milliseconds that these bytes take.
    pub traffic_ms: f64,
    /// Milliseconds that all parts take at least, one after the other: of each the operations, or the bytes that it reads
    /// and writes, whichever take longer.
    pub least_ms: f64,
    /// Kinds.
    pub lines: Vec<ProfileLine>,
}

/// The parts of a plan with the same ops, done by the same kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileLine {
    /// Ops of the plan step, `conv2d+add`, and on a GPU its kernels or the library's algorithm.
    pub label: String,
    /// Parts of this kind.
    pub count: usize,
    /// Milliseconds per training step.
    pub ms: f64,
    /// Share of the time of all parts.
    pub share: f64,
    /// Operations per second, in 10⁹, by the plain formula: a convolution counts its direct method, though Winograd's
    /// does fewer. 0 where the formula has no products to count.
    pub gflop_s: f64,
    /// Bytes that the parts read and write, each location once, per second, in 10⁹.
    pub gb_s: f64,
    /// Share of the roofline: the least time that operations and bytes take at the machine's peaks, of the time that
    /// they took. More than 1 where Winograd saves operations or caches save traffic.
    pub roofline_share: f64,
}

/// Work and time of some parts.
#[derive(Clone, Debug, Default)]
struct Cost {
    label: String,
    count: usize,
    seconds: f64,
    least: f64,
    arithmetic: f64,
    flops: u64,
    bytes: u64,
    written: u64,
}

impl Cost {
    fn add(&mut self, work: &Workload, seconds: f64, peaks: &Peaks) {
        self.count += 1;
        self.seconds += seconds;
        self.least += peaks.least_time(work);
        self.arithmetic += peaks.arithmetic_time(work);
        self.flops += work.flops;
        self.bytes += work.bytes();
        self.written += work.written;
    }

    fn line(&self, total: f64) -> ProfileLine {
        let rate = |work: u64| if self.seconds > 0.0 { rounded(work as f64 / self.seconds / 1e9) } else { 0.0 };
        let share = |part: f64, of: f64| if of > 0.0 { rounded(part / of) } else { 0.0 };
        ProfileLine {
            label: self.label.clone(),
            count: self.count,
            ms: rounded(1e3 * self.seconds),
            share: share(self.seconds, total),
            gflop_s: rate(self.flops),
            gb_s: rate(self.bytes),
            roofline_share: share(self.least, self.seconds),
        }
    }
}

impl Profile {
    /// The profile of the parts of a plan, timed in `runs` runs.
    pub(super) fn new(parts: Vec<PartTime>, runs: usize, peaks: Peaks) -> Profile {
        let (mut costs, mut all) = (Vec::<Cost>::new(), Cost::default());
        for PartTime { label, work, time } in parts {
            let seconds = time.as_secs_f64() / runs as f64;
            let at = costs.iter().position(|c| c.label == label).unwrap_or_else(|| {
                costs.push(Cost { label, ..Cost::default() });
                costs.len() - 1
            });
            costs[at].add(&work, seconds, &peaks);
            all.add(&work, seconds, &peaks);
        }
        costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let traffic = Workload { read: all.written, written: all.written, ..Workload::default() };
        Profile {
            peaks,
            tflop: rounded(all.flops as f64 / 1e12),
            gb: rounded(traffic.bytes() as f64 / 1e9),
            arithmetic_ms: rounded(1e3 * all.arithmetic),
            traffic_ms: rounded(1e3 * peaks.traffic_time(&traffic)),
            least_ms: rounded(1e3 * all.least),
            lines: costs.iter().map(|c| c.line(all.seconds)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::Precision;

    const PEAKS: Peaks = Peaks { flops: 100e9, tf32_flops: Some(400e9), bf16_flops: None, bandwidth: 10e9 };

    /// A quarter of the bytes is written.
    fn part(label: &str, (flops, precision, bytes): (u64, Precision, u64), ms: u64) -> PartTime {
        let work = Workload { flops, precision, read: bytes * 3 / 4, written: bytes / 4 };
        PartTime { label: label.to_owned(), work, time: Duration::from_millis(ms) }
    }

    #[test]
    fn parts_of_a_kind_are_summed_and_bounded_by_work_or_traffic() {
        // Least times: 1 ms by arithmetic, 4 ms by traffic, 2 ms by traffic.
        let parts = vec![
            part("a", (100_000_000, Precision::F32, 1_000_000), 20),
            part("b", (0, Precision::F32, 40_000_000), 20),
            part("a", (0, Precision::F32, 20_000_000), 10),
        ];
        let got = Profile::new(parts, 2, PEAKS);
        let line = |label: &str, count, ms, share, gflop_s, gb_s, roofline_share| ProfileLine {
            label: label.into(),
            count,
            ms,
            share,
            gflop_s,
            gb_s,
            roofline_share,
        };
        assert_eq!(got.lines, [line("a", 2, 15.0, 0.6, 6.667, 1.4, 0.2), line("b", 1, 10.0, 0.4, 0.0, 4.0, 0.4)]);
        assert_eq!((got.arithmetic_ms, got.traffic_ms, got.least_ms), (1.0, 3.05, 7.0));
    }

    /// A step's operations are compared with the rate of its own precision, or that of f32 where there is no other.
    #[test]
    fn each_precision_has_its_peak() {
        for (precision, arithmetic_ms) in [(Precision::F32, 8.0), (Precision::Tf32, 2.0), (Precision::Bf16, 8.0)] {
            let got = Profile::new(vec![part("a", (800_000_000, precision, 10_000_000), 16)], 1, PEAKS);
            assert_eq!((got.arithmetic_ms, got.traffic_ms), (arithmetic_ms, 0.5), "{precision}");
            assert_eq!(got.lines[0].roofline_share, arithmetic_ms / 16.0, "{precision}");
        }
    }
}
