//! The drafter: holds the shallow layers, and proposes the next tokens of generations.

pub mod session;
