//! The part of the command line that programs may use, too: a client that goes on where a lost
//! stream ended.

pub mod client;
