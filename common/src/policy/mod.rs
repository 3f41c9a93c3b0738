//! Draft policies: when to emit, go deeper, or stop.
