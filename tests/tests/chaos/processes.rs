//! One service as a process.

use serde_json::Value;
use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// Time for a process to listen, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Lines of its log that a failed test shows.
const LINES_KEPT: usize = 40;

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Verifier,
    Drafter,
}

impl Kind {
    /// The service with the flags that it is given, and nothing of the environment.
    pub(crate) fn command(self, flags: &[String]) -> Command {
        // These are the services' own `main.rs`: see Cargo.toml.
        let program = match self {
            Self::Verifier => env!("CARGO_BIN_EXE_test-verify-svc"),
            Self::Drafter => env!("CARGO_BIN_EXE_test-draft-svc"),
        };
        let mut command = Command::new(Path::new(program));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text == "RUST_LOG" || text.starts_with("DSSD_") || text.starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        command.args(flags).stdin(Stdio::null());
        command
    }
}

/// What the log said.
#[derive(Default)]
struct Log {
    newest: VecDeque<String>,
    /// Lines that must not be there: errors, and what is no log line, such as a panic.
    faults: Vec<String>,
}

/// A running service.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Log>>,
    pub(crate) address: SocketAddr,
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    pub(crate) files: usize,
    pub(crate) threads: usize,
    /// Memory of its own, without what it maps of files, in KiB.
    pub(crate) own_kib: u64,
}

impl Process {
    /// Starts a service on a free port; returns when it listens. It may still be loading.
    pub(crate) async fn start(kind: Kind, flags: &[String]) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--log-format", "json"].map(str::to_owned);
        let mut child = kind
            .command(&[flags, &listen].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let (found, address) = oneshot::channel();
        let (lines, kept) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || follow(lines, &kept, found));
        let address = timeout(START_LIMIT, address).await;
        let address = address.expect("a service listens in time");
        let address =
            address.unwrap_or_else(|_| panic!("no start: {:?}", log.lock().unwrap().newest));
        Self {
            child,
            log,
            address,
        }
    }

    /// Sends a signal by name, such as `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success(), "signal {name}");
    }

    /// Its exit status, which must come in time.
    pub(crate) async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    break status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = timeout(limit, ended).await;
        ended.unwrap_or_else(|_| panic!("still there after {limit:?}: {:?}", self.newest()))
    }

    pub(crate) fn vitals(&self) -> Vitals {
        let folder = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
        let number = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap()
        };
        Vitals {
            files: std::fs::read_dir(format!("{folder}/fd")).unwrap().count(),
            threads: number("Threads:") as usize,
            own_kib: number("RssAnon:"),
        }
    }

    /// What its log should not have.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.log.lock().unwrap().faults.clone()
    }

    fn newest(&self) -> VecDeque<String> {
        self.log.lock().unwrap().newest.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is gone already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Reads a log to its end; tells the address on which the service listens.
fn follow(lines: impl Read, log: &Mutex<Log>, found: oneshot::Sender<SocketAddr>) {
    let mut found = Some(found);
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = &parsed["fields"];
        if fields["message"] == "listening"
            && let Some(address) = fields["address"].as_str()
            && let Some(found) = found.take()
        {
            _ = found.send(address.parse().unwrap());
        }
        let mut log = log.lock().unwrap();
        if parsed["level"] == "ERROR" || !parsed.is_object() {
            log.faults.push(line.clone());
        }
        if log.newest.len() == LINES_KEPT {
            log.newest.pop_front();
        }
        log.newest.push_back(line);
    }
}
