//! The time that a client gives.

use crate::Error;
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tonic::{Status, metadata::MetadataMap};

const HEADER: &str = "grpc-timeout";
/// The transport, too, watches the header, and answers CANCELLED; DEADLINE_EXCEEDED, which the
/// protocol wants, must come before that.
const MARGIN: Duration = Duration::from_millis(2);

/// When a call must be over, if ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// Reads the deadline of a call that comes in now.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Error> {
        let Some(value) = metadata.get(HEADER) else {
            return Ok(Self(None));
        };
        let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
            Error::field(
                HEADER,
                "must be up to 8 digits and one of the units H, M, S, m, u, n",
            )
        })?;
        Ok(Self(
            Instant::now().checked_add(timeout.saturating_sub(MARGIN)),
        ))
    }

    pub(super) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Drops `work`, and with it what it started, when the time is over.
    pub(super) async fn bound<T>(
        self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        match self.0 {
            None => work.await,
            Some(instant) => tokio::time::timeout_at(instant.into(), work)
                .await
                .unwrap_or_else(|_| Err(Error::DeadlineExceeded.into())),
        }
    }
}

/// The gRPC wire format: at most 8 digits, then a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn the_wire_format_is_read() {
        assert_eq!(parse("90S"), Some(Duration::from_secs(90)));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "S", "5", "-5S", "+5S", "123456789S", "5s", "5µ"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
