//! The progress of an epoch: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Messages;

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

/// Shows the progress of one epoch after the other; prints only through [`Messages`], so that it never
/// garbles them.
pub struct Progress {
    messages: Messages,
    bar: Option<ProgressBar>,
    epoch: u64,
    batches: u64,
    done: u64,
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
            recent: Sums::default(),
            whole: Sums::default(),
            last_line: Instant::now(),
        }
    }

    /// Begins epoch `epoch` (from 0) of `batches` batches, of which `done` were done before a resume.
    pub fn start_epoch(&mut self, epoch: u64, batches: u64, done: u64) {
        (self.epoch, self.batches, self.done) = (epoch, batches, done);
        self.whole = Sums::default();
        self.last_line = Instant::now();
        self.bar = self.messages.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(batches).with_position(done));
            // Two lines, so that nothing is cut on a terminal of 80 columns.
            let style = ProgressStyle::with_template("{bar:20} {prefix}\n{wide_msg}");
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
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(format!("{} · {}", self.place(), self.rates()));
                bar.set_message(numbers(info));
                bar.set_position(self.done);
            }
            None if self.last_line.elapsed() >= INTERVAL => {
                self.last_line = Instant::now();
                self.messages.transient(&format!("{} · {} · {}", self.place(), numbers(info), self.rates()));
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

    /// The summary line of a validation: name and value pairs in the order given, and whether a metric
    /// improved.
    pub fn validation(&self, step: u64, values: &[(&str, f64)], is_best: bool) {
        let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let best = if is_best { " · best so far" } else { "" };
        self.messages.info(&format!("validation at step {step} · {}{best}", shown.join(" · ")));
    }

    fn place(&self) -> String {
        format!("epoch {} {}/{}", self.epoch, self.done, self.batches)
    }

    fn rates(&self) -> String {
        format!(
            "{:.1} patches/s · data {:.0} % · ETA {}",
            self.recent.patches_per_second(),
            self.recent.waiting_percent(),
            clock(self.recent.seconds_for(self.batches.saturating_sub(self.done))),
        )
    }
}

fn numbers(info: &StepInfo) -> String {
    let show = |name: &str, p: Option<f32>| p.map(|p| format!(" · {name} {p:.2}")).unwrap_or_default();
    let discriminator = show("D(y)", info.d_real) + &show("D(G(x))", info.d_fake);
    format!("step {} · {} · content {:.5}{discriminator}", info.step, info.phase, info.content_loss)
}

/// Seconds as h:mm:ss.
pub(super) fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::console::tests::Shared;

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
        progress.start_epoch(2, 240, 0);
        progress.step(&info(480));
        assert_eq!(out.text(), "", "a line before the interval is over");
        progress.last_line = Instant::now() - INTERVAL;
        progress.step(&info(481));
        progress.step(&info(482));
        progress.end_epoch(0.5);
        progress.validation(482, &[("psnr", 30.123456), ("ssim", 0.9)], true);
        let want = "epoch 2 2/240 · step 481 · adversarial · content 0.01230 · D(y) 0.75 · D(G(x)) 0.25 \
                    · 16.0 patches/s · data 10 % · ETA 0:01:59\n\
                    epoch 2 3/240 · content 0.50000 · 16.0 patches/s · data 10 % · 0:00:02\n\
                    validation at step 482 · psnr 30.1235 · ssim 0.9000 · best so far\n";
        assert_eq!(out.text(), want);
    }

    #[test]
    fn pretraining_shows_no_discriminator_and_resumed_epochs_count_on() {
        let out = Shared::default();
        let mut progress = Progress::new(Messages::plain(out.clone()));
        progress.start_epoch(0, 10, 4);
        progress.last_line = Instant::now() - INTERVAL;
        progress.step(&StepInfo { phase: "pretrain", d_real: None, d_fake: None, ..info(4) });
        assert!(out.text().starts_with("epoch 0 5/10 · step 4 · pretrain · content"), "{}", out.text());
        assert!(!out.text().contains("D("));
    }
}
