//! What both services need besides their own work: settings, logs, signals, loading a model,
//! health and reflection, and an orderly end.

mod args;
mod client;
mod free;
mod grpc;
mod life;
mod logging;
mod memory;
mod model;
mod process;
mod settings;

pub use args::{ServeArgs, check_positive, default_settings, or_else};
pub use client::ClientId;
pub use grpc::{Front, Health, MAX_MESSAGE_BYTES};
pub use life::{Engine, Service, cancelled_on_signal, listen};
pub use logging::{init_logging, warn_unknown_variables};
pub use memory::KvMemory;
pub use model::{LoadedModel, ModelSettings, open_model};
pub use process::{ServiceError, load_blocking, run_process};
pub use settings::{Dtype, LogFormat, Switch, WorkAhead, parse_seconds};
