//! The time that is measured.

use std::sync::OnceLock;
use tokio::time::Instant;

/// A span that begins and ends once; what lies before and behind it is not counted.
#[derive(Debug, Default)]
pub(super) struct Window {
    begin: OnceLock<Instant>,
    end: OnceLock<Instant>,
}

impl Window {
    /// Begins at `at`, unless it has begun.
    pub(super) fn begin(&self, at: Instant) {
        _ = self.begin.set(at);
    }

    /// Ends at `at`, unless it has ended.
    pub(super) fn end(&self, at: Instant) {
        _ = self.end.set(at);
    }

    /// Whether `at` lies in it. While its end is not known, it is taken not to have come.
    pub(super) fn contains(&self, at: Instant) -> bool {
        let begun = self.begin.get().is_some_and(|&begin| begin <= at);
        begun && self.end.get().is_none_or(|&end| at < end)
    }

    /// Its length in seconds; 0 until both ends are known.
    pub(super) fn seconds(&self) -> f64 {
        match (self.begin.get(), self.end.get()) {
            (Some(&begin), Some(&end)) => end.saturating_duration_since(begin).as_secs_f64(),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Window;
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn what_lies_before_and_behind_is_not_counted() {
        let window = Window::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let (begin, inside, end) = (at(10), at(20), at(30));
        assert!(!window.contains(inside));
        window.begin(begin);
        assert!(window.contains(begin) && window.contains(inside) && window.contains(end));
        assert_eq!(window.seconds(), 0.0);
        window.end(end);
        window.end(at(40));
        assert!(window.contains(inside) && !window.contains(end) && !window.contains(at(5)));
        assert!((window.seconds() - 20.0).abs() < 0.1);
    }
}
