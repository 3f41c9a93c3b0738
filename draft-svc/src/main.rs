//! The process; everything else is in the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    dssd_common::serve::run_process(draft_svc::run).await
}
