//! The progress of a map: a bar on a terminal, nothing elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Messages;
use super::progress::clock;

/// Shows how far a map is.
pub struct MapProgress {
    bar: Option<ProgressBar>,
    started: Instant,
    /// Windows of this process, and how many of them are done.
    total: usize,
    done: usize,
    /// Megapixels of the map for each window.
    megapixels: f64,
}

impl MapProgress {
    /// For `total` windows that are to be done, which make `megapixels` of the map.
    pub fn new(messages: &Messages, total: usize, megapixels: f64) -> Self {
        let bar = messages.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(total as u64));
            let style = ProgressStyle::with_template("{bar:20} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        MapProgress { bar, started: Instant::now(), total, done: 0, megapixels: megapixels / total.max(1) as f64 }
    }

    /// More windows are done.
    pub fn add(&mut self, windows: usize) {
        self.done += windows;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
            bar.set_message(self.text(self.started.elapsed()));
        }
    }

    fn text(&self, elapsed: Duration) -> String {
        let rate = self.done as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1e-9);
        format!(
            "{}/{} windows · {:.2} MP/s · ETA {}",
            self.done,
            self.total,
            rate * self.megapixels,
            clock(left.min(1e9))
        )
    }

    /// The file is being written; `share` of it is.
    pub fn writing(&self, share: f64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("writing the file · {:.0} %", 100.0 * share));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Shared;

    #[test]
    fn a_bar_tells_the_rate_and_the_time_that_is_left() {
        let mut progress = MapProgress::new(&Messages::hidden_bars(), 100, 50.0);
        progress.add(25);
        assert_eq!(progress.text(Duration::from_secs(10)), "25/100 windows · 1.25 MP/s · ETA 0:00:30");
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        let out = Shared::default();
        let mut progress = MapProgress::new(&Messages::plain(out.clone()), 3, 1.0);
        progress.add(1);
        progress.writing(0.5);
        progress.finish();
        assert_eq!(out.text(), "");
    }
}
