//! Both services in this process, on loopback ports, through real gRPC.

use anyhow::{Context, Result, bail};
use dssd_common::{
    checkpoint::{Checkpoint, demo},
    serve::{DeviceName, KvMemory, ServeArgs},
    tokenizer::Tokenizer,
};
use dssd_proto::v1::drafting_server::{Drafting, DraftingServer};
use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, Uri};

/// A model that several services of this process share.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) folder: PathBuf,
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    /// Where both services run it.
    pub(crate) device: DeviceName,
}

impl Model {
    /// Opens a folder, or that of the demo model.
    pub(crate) fn open(folder: Option<PathBuf>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder,
            None => demo::folder()?,
        };
        Ok(Self {
            checkpoint: Arc::new(checkpoint(&folder)?),
            tokenizer: Tokenizer::open(&folder)?.map(Arc::new),
            folder,
            device: DeviceName::Cpu,
        })
    }

    /// The same on another device.
    ///
    /// # Errors
    /// If that cannot be used.
    pub(crate) fn on(self, device: DeviceName) -> Result<Self> {
        // Said once, rather than by each of the services.
        device.open()?;
        Ok(Self { device, ..self })
    }
}

/// The checkpoint of a folder that a person named.
pub(crate) fn checkpoint(folder: &Path) -> Result<Checkpoint> {
    if !folder.is_dir() {
        bail!(
            "{}: no such folder; a Hugging Face folder is wanted, with config.json, \
             model.safetensors and tokenizer.json",
            folder.display()
        );
    }
    Ok(Checkpoint::open(folder)?)
}

/// A service that runs in this process until it is stopped.
pub(crate) struct Service {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Service {
    /// Runs `serve` on a listener, as a task of its own.
    pub(crate) fn spawn<F>(
        listener: TcpListener,
        serve: impl FnOnce(TcpListener, CancellationToken) -> F,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, shutdown.clone()));
        Ok(Self {
            address,
            shutdown,
            task,
        })
    }

    /// Where clients find it.
    pub(crate) fn uri(&self) -> Result<Uri> {
        Ok(format!("http://{}", self.address).parse()?)
    }

    /// Stops it, and waits until it has ended.
    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.task.await.context("a service did not end well")?
    }
}

/// A free loopback port.
pub(crate) async fn listener() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)
}

/// Several services of this process are on one device: on a GPU, whose memory all of it they take at the start,
/// each leaves room for the others.
pub(crate) fn share(serve: &mut ServeArgs, device: DeviceName) {
    serve.device = device;
    if device != DeviceName::Cpu {
        serve.kv_memory = Some(KvMemory::Share(0.1));
    }
}

/// A draft-svc of `model`. As it shares the machine with its verifier, it does not work ahead.
pub(crate) fn drafter(model: &Model, listener: TcpListener) -> Result<Service> {
    drafter_with(model, listener, |_| ())
}

/// A draft-svc of `model`, with whatever `change` sets.
pub(crate) fn drafter_with(
    model: &Model,
    listener: TcpListener,
    change: impl FnOnce(&mut draft_svc::Config),
) -> Result<Service> {
    let mut config = draft_svc::Config::for_model(model.folder.clone());
    share(&mut config.serve, model.device);
    change(&mut config);
    let (checkpoint, tokenizer) = (Arc::clone(&model.checkpoint), model.tokenizer.clone());
    Service::spawn(listener, async move |listener, shutdown| {
        Ok(draft_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown).await?)
    })
}

/// A verify-svc of `model` with these drafters.
pub(crate) fn verifier(model: &Model, drafts: Vec<Uri>, listener: TcpListener) -> Result<Service> {
    verifier_with(model, listener, |config| config.drafts = drafts)
}

/// A verify-svc of `model`, with whatever `change` sets.
pub(crate) fn verifier_with(
    model: &Model,
    listener: TcpListener,
    change: impl FnOnce(&mut verify_svc::Config),
) -> Result<Service> {
    let mut config = verify_svc::Config::for_model(model.folder.clone());
    share(&mut config.serve, model.device);
    // Nobody has to hear first that it ends.
    config.serve.drain_delay = Duration::ZERO;
    change(&mut config);
    let (checkpoint, tokenizer) = (Arc::clone(&model.checkpoint), model.tokenizer.clone());
    Service::spawn(listener, async move |listener, shutdown| {
        Ok(verify_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown).await?)
    })
}

/// Serves a drafter of our own on a free port.
pub(crate) async fn own_drafter(drafter: impl Drafting) -> Result<Service> {
    Service::spawn(listener().await?, async move |listener, shutdown| {
        let served = Server::builder()
            .tcp_nodelay(true)
            .add_service(DraftingServer::new(drafter))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Whoever is still connected is cut off: that is what drafters are allowed to do.
        match shutdown.run_until_cancelled(served).await {
            Some(outcome) => Ok(outcome?),
            None => Ok(()),
        }
    })
}
