//! The account of one request to generate, from its arrival to its end, for metrics, logs and traces.

use super::Metrics;
use crate::{Error, engine::Event, session::News, spans::Spans};
use dssd_common::serve::Identity;
use dssd_proto::v1::{self, FinishReason};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How a generation ended; the first ones as clients are told.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Stop,
    Length,
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Unavailable,
    Error,
}

impl Ending {
    /// Whether the service did not do what it was asked for. Clients decide when they leave.
    fn is_failure(self) -> bool {
        matches!(self, Self::Unavailable | Self::Error)
    }
}

pub(super) const ENDINGS: [&str; 7] = [
    "stop",
    "length",
    "aborted",
    "cancelled",
    "deadline_exceeded",
    "unavailable",
    "error",
];

pub(super) const REJECTIONS: [&str; 6] = [
    "invalid_argument",
    "already_exists",
    "no_room",
    "failed_precondition",
    "draining",
    "internal",
];

/// The index in [`REJECTIONS`] of why a request was refused.
pub(super) fn rejection(error: &Error) -> usize {
    use dssd_common::Error as Common;
    match error {
        Error::InvalidField { .. } | Error::Common(Common::InvalidParameter { .. }) => 0,
        Error::RequestIdInUse(_) => 1,
        Error::NoRoom { .. } | Error::Common(Common::OutOfKvBlocks { .. }) => 2,
        Error::Precondition { .. } => 3,
        Error::Draining => 4,
        _ => 5,
    }
}

/// The name of why a request was refused, and the field that is to blame, if one is. What the
/// field holds may be a part of a prompt.
pub(super) fn reason(error: &Error) -> (&'static str, Option<&str>) {
    use dssd_common::Error as Common;
    let field = match error {
        Error::InvalidField { field, .. } => Some(field.as_str()),
        Error::Common(Common::InvalidParameter { field, .. }) => Some(*field),
        _ => None,
    };
    (REJECTIONS[rejection(error)], field)
}

/// One request. It is counted once: when its end is told, or when nobody holds it any more.
#[derive(Debug)]
pub struct Call {
    metrics: Arc<Metrics>,
    identity: Identity,
    spans: Spans,
    arrived: Instant,
    deadline: Option<Instant>,
    /// Nanoseconds from arrival to the newest tokens; 0 before the first.
    newest: AtomicU64,
    ended: AtomicBool,
}

impl Default for Call {
    /// One that nobody looks at.
    fn default() -> Self {
        Self::new(Arc::default(), None, Identity::default())
    }
}

impl Call {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        deadline: Option<Instant>,
        identity: Identity,
    ) -> Self {
        Self {
            metrics,
            spans: Spans::new(identity.trail().clone()),
            identity,
            arrived: Instant::now(),
            deadline,
            newest: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// When it came.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// What it is known by.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes note of a step with rows of it.
    pub(crate) fn passed(&self, begun: Instant, time: Duration) {
        self.spans.passed(begun, time);
    }

    /// Takes note of a round.
    pub(crate) fn round(&self, news: &News) {
        self.metrics.round(news);
        self.spans.round(news);
    }

    /// It is refused.
    pub(crate) fn rejected(&self, error: &Error) {
        if !self.ended.swap(true, Relaxed) {
            self.metrics.rejected(error);
            let (reason, field) = reason(error);
            self.identity
                .in_log(|| tracing::debug!(reason, field, "refused"));
            let is_failure = matches!(reason, "draining" | "internal");
            self.spans.ended(reason, is_failure, None);
        }
    }

    /// It has room, after waiting for it.
    pub(crate) fn admitted(&self, queued: Duration, resumed: bool) {
        self.metrics.queue_time.observe(queued.as_secs_f64());
        self.spans.admitted(queued);
        self.metrics.resumed.inc_by(u64::from(resumed));
    }

    /// So many of its tokens were in the prefix cache.
    pub(crate) fn reused(&self, tokens: usize) {
        self.metrics.prefix_cache_hit_tokens.inc_by(tokens as u64);
    }

    /// Its client is told this.
    pub(crate) fn told(&self, event: &Event) {
        match event {
            Event::Tokens(tokens) => self.tokens(tokens.token_ids.len()),
            Event::Round(_) => {}
            Event::Finished(info) => self.finished(info),
            Event::Failed(Error::DeadlineExceeded) => self.end(Ending::DeadlineExceeded, None),
            Event::Failed(Error::Draining) => self.end(Ending::Unavailable, None),
            Event::Failed(_) => self.end(Ending::Error, None),
        }
    }

    fn tokens(&self, count: usize) {
        if count == 0 {
            return;
        }
        let now = self.arrived.elapsed();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let before = self.newest.swap(nanos, Relaxed);
        let mut count = count;
        if before == 0 {
            self.metrics.time_to_first_token.observe(now.as_secs_f64());
            count -= 1;
        }
        // Tokens of one round come together: each has its share of the time since the last round.
        let since = match before {
            0 => Duration::ZERO,
            before => Duration::from_nanos(nanos.saturating_sub(before)),
        };
        let share = since.as_secs_f64() / count.max(1) as f64;
        (0..count).for_each(|_| self.metrics.inter_token_latency.observe(share));
    }

    fn finished(&self, info: &v1::FinishInfo) {
        if info.lossy && !self.ended.load(Relaxed) {
            self.metrics.lossy_requests.inc();
            let heads = info.early_exit.iter().flat_map(|exit| &exit.exit_heads);
            for left in heads {
                let head = left.exit_head as usize;
                self.metrics.early_exit_tokens.add(head, left.count);
            }
        }
        let ending = match info.finish_reason() {
            FinishReason::Stop => Ending::Stop,
            FinishReason::Length => Ending::Length,
            FinishReason::Aborted => Ending::Aborted,
            FinishReason::Unspecified => Ending::Error,
        };
        self.end(ending, Some(info));
    }

    fn end(&self, ending: Ending, info: Option<&v1::FinishInfo>) {
        if !self.ended.swap(true, Relaxed) {
            self.metrics.requests.add(ending as usize, 1);
            let whole = self.arrived.elapsed();
            self.metrics.e2e_latency.observe(whole.as_secs_f64());
            let (how, is_failure) = (ENDINGS[ending as usize], ending.is_failure());
            self.spans.ended(how, is_failure, info);
            self.identity.in_log(|| match is_failure {
                true => tracing::warn!(finish_reason = how, "a generation was cut off"),
                false => tracing::debug!(finish_reason = how, "a generation ended"),
            });
        }
    }
}

impl Drop for Call {
    /// Whoever asked is gone, or its time is over.
    fn drop(&mut self) {
        let over = self.deadline.is_some_and(|at| at <= Instant::now());
        let ending = match over {
            true => Ending::DeadlineExceeded,
            false => Ending::Cancelled,
        };
        self.end(ending, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    fn ended(metrics: &Metrics) -> Vec<(&'static str, u64)> {
        let count = |(index, name)| {
            let count = metrics.requests.at(index).unwrap().get();
            (count > 0).then_some((name, count))
        };
        ENDINGS.into_iter().enumerate().filter_map(count).collect()
    }

    #[test]
    fn a_call_counts_once_however_it_ends() {
        let metrics = Arc::new(Metrics::default());
        drop(metrics.call(None, Identity::default()));
        assert_eq!(ended(&metrics), [("cancelled", 1)]);
        drop(metrics.call(Some(Instant::now()), Identity::default()));
        assert_eq!(
            ended(&metrics),
            [("cancelled", 1), ("deadline_exceeded", 1)]
        );
        let call = metrics.call(None, Identity::default());
        call.rejected(&Error::Draining);
        drop(call);
        assert_eq!(ended(&metrics).len(), 2, "refused, so not ended");
        let call = metrics.call(None, Identity::default());
        call.told(&Event::Failed(Error::Draining));
        drop(call);
        assert_eq!(ended(&metrics).last(), Some(&("unavailable", 1)));
    }

    #[test]
    fn tokens_that_come_together_share_the_time() {
        let metrics = Arc::new(Metrics::default());
        let call = metrics.call(None, Identity::default());
        call.tokens(1);
        call.tokens(4);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "time_to_first_token_seconds_count 1",
            "inter_token_latency_seconds_count 4",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }
}
