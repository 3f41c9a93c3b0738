//! What both services need besides their own work: settings, logs, signals, loading a model,
//! probes and metrics, health and reflection, and an orderly end.

mod args;
mod client;
mod connection;
mod door;
mod free;
mod gate;
mod grpc;
mod health;
mod http;
mod incoming;
mod life;
mod listeners;
mod logging;
mod memory;
mod metrics;
mod model;
mod process;
mod readable;
mod seats;
mod secret;
mod settings;
mod tls;
mod tokens;
mod watched;

pub use args::{ServeArgs, check_positive, default_settings, or_else};
pub use client::ClientId;
pub use door::{Door, DoorArgs, needs};
pub use gate::{Gate, Gated};
pub use grpc::{Front, MAX_MESSAGE_BYTES, Router};
pub use health::Health;
pub use http::Http;
pub use life::{Drain, Engine, Service, cancelled_on_signal, listen};
pub use listeners::Listeners;
pub use logging::{init_logging, warn_unknown_variables};
pub use memory::KvMemory;
pub use metrics::{Counters, Labelled, head_labels, registry, sizes, times};
pub use model::{LoadedModel, ModelSettings, open_model};
pub use process::{ServiceError, load_blocking, run_process};
pub use readable::{Readable, blame_sender, clipped};
pub use seats::Seat;
pub use secret::Secret;
pub use settings::{Dtype, HttpListen, LogFormat, Switch, WorkAhead, parse_seconds};
pub use tls::{Dialer, DialerSettings, Wire};
pub use tokens::Bearer;
