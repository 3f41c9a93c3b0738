//! Services as processes, with everything that they say.

use crate::processes::Kind;
use std::{
    fs::File,
    net::SocketAddr,
    process::{Child, Command},
    time::Duration,
};
use tempfile::NamedTempFile;
use tokio::time::timeout;

/// Time for a process to listen, or to end, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A service that runs.
pub(crate) struct Logged {
    child: Child,
    output: NamedTempFile,
    pub(crate) address: SocketAddr,
}

impl Logged {
    /// Starts a service on a free port, with these variables; returns when it listens.
    pub(crate) async fn start(kind: Kind, flags: &[&str], variables: &[(&str, String)]) -> Self {
        let own = ["--listen", "127.0.0.1:0", "--http-listen", "off"];
        let flags: Vec<String> = own.iter().chain(flags).map(|&f| f.to_owned()).collect();
        let output = NamedTempFile::new().unwrap();
        let file: File = output.reopen().unwrap();
        let mut command = kind.command(&flags);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        let mut logged = Self {
            child,
            output,
            address: ([127, 0, 0, 1], 0).into(),
        };
        let listening = async {
            loop {
                if let Some(address) = logged.listens_on() {
                    break address;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let listening = timeout(LIMIT, listening).await;
        logged.address = listening.unwrap_or_else(|_| panic!("no start: {}", logged.said()));
        logged
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        let bytes = std::fs::read(self.output.path()).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Tells it to end; returns what it said in its life.
    pub(crate) async fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    break status;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let status = timeout(LIMIT, ended).await;
        let said = self.said();
        assert!(status.unwrap().success(), "{said}");
        said
    }

    /// The address in the line that says so, in whatever form.
    fn listens_on(&self) -> Option<SocketAddr> {
        let said = self.said();
        let line = said.lines().find(|line| line.contains("listening"))?;
        let (_, port) = line.split_once("127.0.0.1:")?;
        let digits = port.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(([127, 0, 0, 1], digits.parse().ok()?).into())
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // One that has ended is gone already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
