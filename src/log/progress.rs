//! The progress of an epoch: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Messages;
use crate::metrics::Metric;

/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);
/// Weight of the past in the running rates, per step: about the last 50 steps count.
const MEMORY: f64 = 0.98;

/// What a step tells the progress display.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepInfo<'a> {
    /// The step, from 0.
    pub step: u64,
    /// "pretrain", "adversarial", …
    pub phase: &'a str,
    /// The generator's content loss.
    pub content_loss: f32,
    /// Mean sigmoid of D on real images; `None` in pretraining.
    pub d_real: Option<f32>,
    /// Mean sigmoid of D on generated images; `None` in pretraining.
    pub d_fake: Option<f32>,
    /// Patches in the batch.
    pub patches: usize,
    /// Wall time of the step, waiting for data included.
    pub elapsed: Duration,
    /// The part of it spent waiting for data.
    pub waited: Duration,
}

/// Sums over (patches, seconds, seconds waited, steps).
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    patches: f64,
    elapsed: f64,
    waited: f64,
    steps: f64,
}

impl Sums {
    fn add(&mut self, info: &StepInfo, memory: f64) {
        self.patches = self.patches * memory + info.patches as f64;
        self.elapsed = self.elapsed * memory + info.elapsed.as_secs_f64();
        self.waited = self.waited * memory + info.waited.as_secs_f64();
        self.steps = self.steps * memory + 1.0;
    }

    fn patches_per_second(&self) -> f64 {
        self.patches / self.elapsed.max(1e-9)
    }

    fn waiting_percent(&self) -> f64 {
        100.0 * self.waited / self.elapsed.max(1e-9)
    }

    fn seconds_for(&self, steps: u64) -> f64 {
        self.elapsed / self.steps.max(1.0) * steps as f64
    }
}

/// Columns that a line of a validation fits into.
const COLUMNS: usize = 80;
/// Columns of the bar itself.
const BAR: usize = 12;

/// Shows the progress of one epoch after the other; prints only through [`Messages`], so that it never
/// garbles them.
pub struct Progress {
    messages: Messages,
    bar: Option<ProgressBar>,
    epoch: u64,
    batches: u64,
    done: u64,
    /// Steps of the whole run, if it has an end.
    total: Option<u64>,
    recent: Sums,
    whole: Sums,
    last_line: Instant,
}

impl Progress {
    /// A display that prints through `messages`.
    pub fn new(messages: Messages) -> Self {
        Progress {
            messages,
            bar: None,
            epoch: 0,
            batches: 0,
            done: 0,
            total: None,
            recent: Sums::default(),
            whole: Sums::default(),
            last_line: Instant::now(),
        }
    }

    /// Begins epoch `epoch` (from 0) of `batches` batches, of which `done` were done before a resume; the whole run has
    /// `total` steps, if it has an end.
    pub fn start_epoch(&mut self, epoch: u64, (batches, done): (u64, u64), total: Option<u64>) {
        (self.epoch, self.batches, self.done, self.total) = (epoch, batches, done, total);
        self.whole = Sums::default();
        self.last_line = Instant::now();
        self.bar = self.messages.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(batches).with_position(done));
            let style = ProgressStyle::with_template(&format!("{{bar:{BAR}}} {{prefix}}\n{{wide_msg}}"));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(self.place());
            bar
        });
    }

    /// Shows a step that was done.
    pub fn step(&mut self, info: &StepInfo) {
        self.done += 1;
        self.recent.add(info, MEMORY);
        self.whole.add(info, 1.0);
        let (rates, numbers) = (self.rates(info.step), self.numbers(info));
        match &self.bar {
            Some(bar) => {
                let width = terminal_width();
                let place = [vec![self.place()], rates].concat();
                bar.set_prefix(fitted(&place, width.saturating_sub(BAR + 1)));
                bar.set_message(fitted(&numbers, width));
                bar.set_position(self.done);
            }
            None if self.last_line.elapsed() >= INTERVAL => {
                self.last_line = Instant::now();
                self.messages.transient(&[vec![self.place()], numbers, rates].concat().join(SEPARATOR));
            }
            None => {}
        }
    }

    /// Ends the epoch with one line over the whole of it, which also goes to the log file; `mean_content` is
    /// its mean content loss. An epoch without a step says nothing.
    pub fn end_epoch(&mut self, mean_content: f32) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.whole.steps > 0.0 {
            self.messages.info(&format!(
                "{} · content {mean_content:.5} · {:.1} patches/s · data {:.0} % · {}",
                self.place(),
                self.whole.patches_per_second(),
                self.whole.waiting_percent(),
                clock(self.whole.elapsed),
            ));
        }
    }

    /// The summary line of a validation after step `step`: its metrics, and whether the watched one is the best so far.
    pub fn validation(&self, step: u64, values: &[(Metric, f64)], is_best: bool) {
        let best = if is_best { " · best" } else { "" };
        let mut parts = vec![format!("val {step}")];
        parts.extend(SHOWN.iter().filter_map(|metric| {
            let (_, value) = values.iter().find(|(m, value)| m == metric && *value != 0.0)?;
            Some(short(*metric, *value))
        }));
        self.messages.info(&format!("{}{best}", fitted(&parts, COLUMNS - " · best".chars().count())));
    }

    fn place(&self) -> String {
        format!("epoch {} {}/{}", self.epoch, self.done, self.batches)
    }

    /// What to expect: first the time to the run's end, or to that of the epoch in a run without end.
    fn rates(&self, step: u64) -> Vec<String> {
        let left = match self.total {
            Some(total) => total.saturating_sub(step + 1),
            None => self.batches.saturating_sub(self.done),
        };
        let of_what = if self.total.is_some() { "ETA" } else { "epoch ends in" };
        vec![
            format!("{of_what} {}", clock(self.recent.seconds_for(left))),
            format!("{:.1} patches/s", self.recent.patches_per_second()),
            format!("data {:.0} %", self.recent.waiting_percent()),
        ]
    }

    fn numbers(&self, info: &StepInfo) -> Vec<String> {
        let of = self.total.map_or(String::new(), |total| format!("/{total}"));
        let mut numbers = vec![format!("step {}{of}", info.step), info.phase.to_owned()];
        numbers.push(format!("content {:.5}", info.content_loss));
        numbers.extend(info.d_real.map(|p| format!("D(y) {p:.2}")));
        numbers.extend(info.d_fake.map(|p| format!("D(G(x)) {p:.2}")));
        numbers
    }
}

/// Between the parts of a line.
const SEPARATOR: &str = " · ";

/// The metrics of a validation that are shown, the most telling first.
const SHOWN: [Metric; 8] = [
    Metric::ValL1,
    Metric::ValSam,
    Metric::ValPsnr,
    Metric::ValSsim,
    Metric::ValPerceptual,
    Metric::ValDiscriminator,
    Metric::ValErgas,
    Metric::ValTv,
];

/// A metric of a validation in few words; the spectral angle in degrees, as people read it.
fn short(metric: Metric, value: f64) -> String {
    match metric {
        Metric::ValL1 => format!("L1 {value:.4}"),
        Metric::ValSam => format!("SAM {:.2}°", value.to_degrees()),
        Metric::ValPsnr => format!("PSNR {value:.2} dB"),
        Metric::ValSsim => format!("SSIM {value:.3}"),
        Metric::ValPerceptual => format!("perceptual {value:.3}"),
        Metric::ValDiscriminator => format!("D {value:.3}"),
        Metric::ValErgas => format!("ERGAS {value:.2}"),
        Metric::ValTv => format!("TV {value:.3}"),
        other => format!("{} {value:.4}", other.name()),
    }
}

/// As many whole parts as fit into `width` columns, at least one.
fn fitted(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let longer = line.chars().count() + SEPARATOR.chars().count() + part.chars().count();
        match line.is_empty() {
            true => line.push_str(part),
            false if longer <= width => line.push_str(&format!("{SEPARATOR}{part}")),
            false => break,
        }
    }
    line
}

/// Columns of the terminal behind standard error.
fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&width| width > 0).unwrap_or(COLUMNS)
}

/// Seconds as h:mm:ss.
pub(super) fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Shared;

    fn info(step: u64) -> StepInfo<'static> {
        StepInfo {
            step,
            phase: "adversarial",
            content_loss: 0.0123,
            d_real: Some(0.75),
            d_fake: Some(0.25),
            patches: 8,
            elapsed: Duration::from_millis(500),
            waited: Duration::from_millis(50),
        }
    }

    #[test]
    fn plain_lines_come_at_intervals_and_at_the_end() {
        let out = Shared::default();
        let mut progress = Progress::new(Messages::plain(out.clone()));
        progress.start_epoch(2, (240, 0), Some(1000));
        progress.step(&info(480));
        assert_eq!(out.text(), "", "a line before the interval is over");
        progress.last_line = Instant::now() - INTERVAL;
        progress.step(&info(481));
        progress.step(&info(482));
        progress.end_epoch(0.5);
        let want = "epoch 2 2/240 · step 481/1000 · adversarial · content 0.01230 · D(y) 0.75 · D(G(x)) 0.25 \
                    · ETA 0:04:19 · 16.0 patches/s · data 10 %\n\
                    epoch 2 3/240 · content 0.50000 · 16.0 patches/s · data 10 % · 0:00:02\n";
        assert_eq!(out.text(), want);
    }

    #[test]
    fn a_validation_is_one_line_of_80_columns_with_units() {
        let out = Shared::default();
        let progress = Progress::new(Messages::plain(out.clone()));
        let values = [
            (Metric::ValPerceptual, 0.0),
            (Metric::ValDiscriminator, 0.71),
            (Metric::ValL1, 0.01234),
            (Metric::ValSam, 0.03491),
            (Metric::ValTv, 0.0456),
            (Metric::ValPsnr, 32.123),
            (Metric::ValSsim, 0.9123),
        ];
        progress.validation(482, &values, true);
        let want = "val 482 · L1 0.0123 · SAM 2.00° · PSNR 32.12 dB · SSIM 0.912 · D 0.710 · best\n";
        assert_eq!(out.text(), want);
        let more: Vec<_> = values.iter().map(|(metric, value)| (*metric, value + 1.0)).collect();
        progress.validation(123_456_789, &more, true);
        assert!(out.text().lines().all(|line| line.chars().count() <= 80), "{}", out.text());
    }

    #[test]
    fn lines_lose_whole_parts_where_there_is_no_room() {
        let parts = ["epoch 2 2/240", "ETA 0:01:59", "16.0 patches/s"].map(str::to_owned);
        assert_eq!(fitted(&parts, 80), "epoch 2 2/240 · ETA 0:01:59 · 16.0 patches/s");
        assert_eq!(fitted(&parts, 43), "epoch 2 2/240 · ETA 0:01:59");
        assert_eq!(fitted(&parts, 3), "epoch 2 2/240");
    }

    #[test]
    fn pretraining_shows_no_discriminator_and_resumed_epochs_count_on() {
        let out = Shared::default();
        let mut progress = Progress::new(Messages::plain(out.clone()));
        progress.start_epoch(0, (10, 4), None);
        progress.last_line = Instant::now() - INTERVAL;
        progress.step(&StepInfo { phase: "pretrain", d_real: None, d_fake: None, ..info(4) });
        assert!(out.text().starts_with("epoch 0 5/10 · step 4 · pretrain · content"), "{}", out.text());
        assert!(!out.text().contains("D(") && out.text().contains("epoch ends in 0:00:03"), "{}", out.text());
    }
}
