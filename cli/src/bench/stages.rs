//! What a bench is at, for the person who waits.

use indicatif::{ProgressBar, ProgressStyle};

/// A line on stderr that names the present stage; none where stderr is no terminal.
pub(crate) struct Stages(ProgressBar);

impl Stages {
    /// A line for `count` stages.
    pub(crate) fn new(count: usize) -> Self {
        let bar = ProgressBar::new(count as u64);
        if let Ok(style) = ProgressStyle::with_template("{elapsed} [{pos}/{len}] {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// The next stage begins.
    pub(crate) fn begin(&self, stage: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.inc(1);
        self.0.set_message(stage);
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
