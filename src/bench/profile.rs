//! What each kind of plan step costs, and how near it comes to what the machine can do.

use std::time::Duration;

use serde::Serialize;

use super::rounded;
use crate::Result;
use crate::device::{Device, Peaks, PlanId};

/// The plan steps of a training step by kind, the costliest first.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// What the machine can do at most.
    pub peaks: Peaks,
    /// Kinds.
    pub lines: Vec<ProfileLine>,
}

/// The plan steps with the same ops.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileLine {
    /// Ops of the plan step: `conv2d+add`.
    pub label: String,
    /// Plan steps of this kind.
    pub count: usize,
    /// Milliseconds per training step.
    pub ms: f64,
    /// Share of the time of all plan steps.
    pub share: f64,
    /// Operations per second, in 10⁹, by the plain formula: a convolution counts its direct method, though Winograd's
    /// does fewer. 0 where the formula has no products to count.
    pub gflop_s: f64,
    /// Bytes that the steps read and write, each location once, per second, in 10⁹.
    pub gb_s: f64,
    /// Share of the roofline: the least time that operations and bytes take at the machine's peaks, of the time that
    /// they took. More than 1 where Winograd saves operations or caches save traffic.
    pub roofline_share: f64,
}

/// Work and time of some plan steps.
#[derive(Clone, Debug, Default)]
struct Cost {
    label: String,
    count: usize,
    seconds: f64,
    least: f64,
    flops: u64,
    bytes: u64,
}

impl Cost {
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
    /// The profile of `plan` after `runs` profiled runs.
    ///
    /// # Errors
    /// If memory to measure the peaks cannot be had.
    pub(super) fn of(device: &dyn Device, plan: PlanId, runs: usize) -> Result<Profile> {
        let peaks = device.peaks()?;
        let (plan, times) = (device.plan(plan), device.times(plan));
        let steps = plan.steps.iter().zip(times).map(|(step, time)| (step.label(), step.macs, plan.bytes(step), *time));
        Ok(Profile { peaks, lines: lines(steps, runs, &peaks) })
    }
}

/// Lines by label from the label, multiply-adds, bytes and time of `runs` runs of each step.
fn lines(steps: impl Iterator<Item = (String, u64, u64, Duration)>, runs: usize, peaks: &Peaks) -> Vec<ProfileLine> {
    let mut costs: Vec<Cost> = Vec::new();
    for (label, macs, bytes, time) in steps {
        let at = costs.iter().position(|c| c.label == label).unwrap_or_else(|| {
            costs.push(Cost { label, ..Cost::default() });
            costs.len() - 1
        });
        let cost = &mut costs[at];
        cost.count += 1;
        cost.seconds += time.as_secs_f64() / runs as f64;
        cost.least += peaks.least_time(2 * macs, bytes);
        cost.flops += 2 * macs;
        cost.bytes += bytes;
    }
    costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let total = costs.iter().map(|c| c.seconds).sum();
    costs.iter().map(|c| c.line(total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_kind_are_summed_and_bounded_by_work_or_traffic() {
        let peaks = Peaks { flops: 100e9, bandwidth: 10e9 };
        let ms = Duration::from_millis;
        // Least times: 1 ms by arithmetic, 4 ms by traffic, 2 ms by traffic.
        let steps = [("a", 50_000_000, 1_000_000, ms(20)), ("b", 0, 40_000_000, ms(20)), ("a", 0, 20_000_000, ms(10))];
        let got = lines(steps.into_iter().map(|(l, m, b, t)| (l.to_owned(), m, b, t)), 2, &peaks);
        let line = |label: &str, count, ms, share, gflop_s, gb_s, roofline_share| ProfileLine {
            label: label.into(),
            count,
            ms,
            share,
            gflop_s,
            gb_s,
            roofline_share,
        };
        assert_eq!(got, [line("a", 2, 15.0, 0.6, 6.667, 1.4, 0.2), line("b", 1, 10.0, 0.4, 0.0, 4.0, 0.4)]);
    }
}
