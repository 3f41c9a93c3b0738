//! One generation's stream to a drafter.

use super::LinkKey;
use crate::drafters::LinkSender;
use std::{net::SocketAddr, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A stream to a drafter.
pub(super) struct Link {
    pub(super) key: LinkKey,
    /// Ends the stream's task when the link is dropped.
    _end: DropGuard,
    pub(super) address: Option<SocketAddr>,
    pub(super) sender: Option<LinkSender>,
    /// When the stream was opened, until its drafter was ready once.
    pub(super) since: Option<Instant>,
}

impl Link {
    pub(super) fn new(key: LinkKey, end: CancellationToken) -> Self {
        Self {
            key,
            _end: end.drop_guard(),
            address: None,
            sender: None,
            since: None,
        }
    }
}
