//! The key-value cache: fixed-size blocks out of one budget.
