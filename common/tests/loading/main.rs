//! Loading of checkpoints, tokenizers and exit heads, from good folders and from damaged ones.

mod config;
mod damage;
mod fingerprint;
mod heads;
mod models;
mod support;
mod text;
