//! A drafter that comes and goes.

use crate::pair::{self, Model};
use anyhow::{Context, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

/// A draft-svc that is stopped and started again, on one port, at random moments.
pub(in crate::check) struct Restarts {
    address: SocketAddr,
    end: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Restarts {
    /// Starts with a running draft-svc.
    pub(in crate::check) async fn start(model: &Model) -> Result<Self> {
        let listener = pair::listener().await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let task = tokio::spawn(restart(model.clone(), listener, end.clone()));
        Ok(Self { address, end, task })
    }

    /// Where it is, when it is there.
    pub(in crate::check) fn uri(&self) -> Result<Uri> {
        Ok(format!("http://{}", self.address).parse()?)
    }

    /// Ends it for good.
    pub(in crate::check) async fn stop(self) -> Result<()> {
        self.end.cancel();
        self.task.await.context("the restarting drafter")?
    }
}

async fn restart(model: Model, first: TcpListener, end: CancellationToken) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut pause = |least: u64, most: u64| {
        let time = Duration::from_millis(random.random_range(least..most));
        end.run_until_cancelled(tokio::time::sleep(time))
    };
    let address = first.local_addr()?;
    let mut listener = first;
    loop {
        let drafter = pair::drafter(&model, listener)?;
        let over = pause(300, 2000).await.is_none();
        drafter.stop().await?;
        if over || pause(20, 300).await.is_none() {
            return Ok(());
        }
        listener = TcpListener::bind(address).await?;
    }
}
