//! The progress of compiling kernels: a bar on a terminal, one line elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use super::Messages;

/// Shows how far kernels are compiled; says nothing where an earlier run has compiled all of them.
pub struct CompileProgress {
    messages: Messages,
    bar: Option<ProgressBar>,
}

impl CompileProgress {
    /// A display that prints through `messages`.
    pub fn new(messages: Messages) -> Self {
        CompileProgress { messages, bar: None }
    }

    /// Shows that `done` of `total` kernels are there, of which `cached` were there before.
    pub fn show(&mut self, device: &str, (total, cached): (usize, usize), done: usize) {
        if done == cached && cached < total {
            self.begin(device, total, cached);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        }
        if done == total
            && let Some(bar) = self.bar.take()
        {
            bar.finish_and_clear();
        }
    }

    fn begin(&mut self, device: &str, total: usize, cached: usize) {
        let text = format!("compiling {total} kernels for {device} ({cached} in cache)");
        let Some(bars) = self.messages.bars() else { return self.messages.info(&text) };
        let bar = bars.add(ProgressBar::new(total as u64));
        // Two lines, so that nothing is cut on a terminal of 80 columns.
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len}\n{wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(text);
        self.bar = Some(bar);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Shared;

    #[test]
    fn one_line_says_what_is_compiled_and_nothing_what_was() {
        let out = Shared::default();
        let mut progress = CompileProgress::new(Messages::plain(out.clone()));
        progress.show("NVIDIA H200", (0, 0), 0);
        progress.show("NVIDIA H200", (312, 312), 312);
        assert_eq!(out.text(), "", "all from the cache");
        for done in 281..=312 {
            progress.show("NVIDIA H200", (312, 281), done);
        }
        let first = "compiling 312 kernels for NVIDIA H200 (281 in cache)\n";
        assert_eq!(out.text(), first);
        progress.show("NVIDIA H200", (2, 0), 0);
        assert_eq!(out.text(), format!("{first}compiling 2 kernels for NVIDIA H200 (0 in cache)\n"));
    }

    #[test]
    fn a_terminal_has_a_bar_until_all_are_there() {
        let mut progress = CompileProgress::new(Messages::hidden_bars());
        progress.show("NVIDIA H200", (3, 1), 1);
        progress.show("NVIDIA H200", (3, 1), 2);
        let bar = progress.bar.clone().unwrap();
        assert_eq!((bar.position(), bar.length(), bar.is_finished()), (2, Some(3), false));
        assert!(bar.message().contains("compiling 3 kernels for NVIDIA H200 (1 in cache)"));
        progress.show("NVIDIA H200", (3, 1), 3);
        assert!(bar.is_finished() && progress.bar.is_none());
    }
}
