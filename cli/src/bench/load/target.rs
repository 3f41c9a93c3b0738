//! The servers that are driven.

use super::counters::Counters;
use crate::{
    client::failure,
    connect::ConnectArgs,
    generate::endpoint,
    pair::{self, Model, Service},
};
use anyhow::{Context as _, Result, ensure};
use dssd_common::serve::{DeviceName, Dialer, Wire};
use dssd_proto::v1::{
    GetModelInfoRequest, GetServerInfoRequest, TokenizeRequest, generation_client::GenerationClient,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tonic::{Code, transport::Uri};

/// Calls of one connection: servers may hold more back than that, and the time would look like theirs.
const CALLS_PER_CONNECTION: usize = 100;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Which servers.
#[derive(clap::Args)]
pub(super) struct TargetArgs {
    /// A running verify-svc; calls go to several in turn [default: both services in this process].
    #[arg(long = "endpoint", value_name = "URL", num_args = 1, value_parser = endpoint)]
    endpoints: Vec<Uri>,
    /// Address of a server's metrics, such as http://127.0.0.1:9090/metrics: its counters must agree with what came here, so nobody else may call it.
    #[arg(long, value_name = "URL", num_args = 1, requires = "endpoints", value_parser = endpoint)]
    metrics: Vec<Uri>,
    /// Hugging Face folder for the services in this process [default: the demo model].
    #[arg(long, value_name = "DIR", conflicts_with = "endpoints")]
    model: Option<PathBuf>,
    /// Where the services in this process run it: cpu, cuda or cuda:N.
    #[arg(long, default_value_t = DeviceName::Cpu, conflicts_with = "endpoints")]
    device: DeviceName,
    /// Threads of each of the services in this process [default: one for each processor].
    #[arg(long, value_name = "N", conflicts_with = "endpoints")]
    threads: Option<std::num::NonZero<usize>>,
    /// Generations at once that the services in this process take [default: theirs].
    #[arg(long, value_name = "N", conflicts_with = "endpoints")]
    max_sequences: Option<std::num::NonZero<usize>>,
    /// Requests that wait for room in this process [default: 4 x max-sequences].
    #[arg(long, value_name = "N", conflicts_with = "endpoints")]
    max_queue: Option<usize>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The servers, and connections to them.
pub(super) struct Target {
    /// Their addresses; none where they are in this process.
    pub(super) endpoints: Vec<String>,
    connections: Vec<GenerationClient<Wire>>,
    /// Where they tell their metrics.
    metrics: Vec<Uri>,
    services: Vec<Service>,
}

/// What bounds a request.
pub(super) struct Limits {
    pub(super) max_context: u32,
    pub(super) vocabulary: u32,
}

impl TargetArgs {
    /// Starts the services, unless there are endpoints, and waits until all are ready.
    ///
    /// # Errors
    /// If a service cannot start, or a server does not answer in time.
    pub(super) async fn open(&self, most_calls: usize) -> Result<Target> {
        let dialer = match self.endpoints.as_slice() {
            [] => Dialer::default(),
            endpoints => self.connect.dialer(endpoints)?,
        };
        let services = match self.endpoints.as_slice() {
            [] => self.start().await?,
            _ => Vec::new(),
        };
        let own = services.first().map(Service::uri).transpose()?;
        let servers: Vec<Uri> = self.endpoints.iter().cloned().chain(own).collect();
        let rounds = most_calls.div_ceil(servers.len() * CALLS_PER_CONNECTION);
        let all = servers.iter().cycle().take(rounds * servers.len());
        let target = Target {
            endpoints: self.endpoints.iter().map(Uri::to_string).collect(),
            connections: all
                .map(|server| GenerationClient::new(dialer.wire(server)))
                .collect(),
            metrics: self.metrics.clone(),
            services,
        };
        for (server, connection) in servers.iter().zip(&target.connections) {
            ready(connection.clone())
                .await
                .with_context(|| server.to_string())?;
        }
        Ok(target)
    }

    /// The verifier, then its drafter.
    async fn start(&self) -> Result<Vec<Service>> {
        let model = Model::open(self.model.clone())?.on(self.device)?;
        let drafter = pair::drafter_with(&model, pair::listener().await?, |config| {
            config.serve.threads = self.threads.map(Into::into);
            // A drafter that is full would leave some of the streams without drafts.
            let most = self.max_sequences.map_or(0, Into::into);
            config.serve.max_sequences = config.serve.max_sequences.max(most);
        })?;
        let drafts = vec![drafter.uri()?];
        let verifier = pair::verifier_with(&model, pair::listener().await?, |config| {
            config.drafts = drafts;
            config.serve.threads = self.threads.map(Into::into);
            let most = self.max_sequences.map(Into::into);
            config.serve.max_sequences = most.unwrap_or(config.serve.max_sequences);
            config.max_queue = self.max_queue;
        })?;
        Ok(vec![verifier, drafter])
    }
}

/// Waits, with a bound, until the server answers.
async fn ready(mut server: GenerationClient<Wire>) -> Result<()> {
    let asked = Instant::now();
    loop {
        match server.get_server_info(GetServerInfoRequest {}).await {
            Ok(_) => return Ok(()),
            Err(status)
                if status.code() == Code::Unavailable && asked.elapsed() < START_TIMEOUT =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(failure(&status)).context("the server is not ready"),
        }
    }
}

impl Target {
    /// The server for a call: they take turns.
    pub(super) fn server(&self, call: u64) -> GenerationClient<Wire> {
        let turn = call % self.connections.len() as u64;
        self.connections[turn as usize].clone()
    }

    /// The servers' counters as they are now; none where they tell none.
    ///
    /// # Errors
    /// If a server does not answer.
    pub(super) async fn counters(&self) -> Result<Option<Counters>> {
        match self.metrics.is_empty() {
            true => Ok(None),
            false => Ok(Some(Counters::begin(self.metrics.clone()).await?)),
        }
    }

    /// Name of the model that the first server has.
    ///
    /// # Errors
    /// If it does not tell.
    pub(super) async fn model_name(&self) -> Result<String> {
        let info = self.server(0).get_model_info(GetModelInfoRequest {}).await;
        Ok(info
            .map_err(|status| failure(&status))?
            .into_inner()
            .model_name)
    }

    /// Limits of the first server.
    ///
    /// # Errors
    /// If it does not tell them.
    pub(super) async fn limits(&self) -> Result<Limits> {
        let mut server = self.server(0);
        let model = server.get_model_info(GetModelInfoRequest {}).await;
        let model = model.map_err(|status| failure(&status))?.into_inner();
        let info = server.get_server_info(GetServerInfoRequest {}).await;
        let info = info.map_err(|status| failure(&status))?.into_inner();
        ensure!(model.vocabulary_size > 0, "the server tells no vocabulary");
        Ok(Limits {
            max_context: info.limits.map_or(model.max_context, |l| l.max_context),
            vocabulary: model.vocabulary_size,
        })
    }

    /// The tokens of each text.
    ///
    /// # Errors
    /// If the server has no tokenizer, or a text has no token.
    pub(super) async fn tokenize(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let mut server = self.server(0);
        let mut all = Vec::with_capacity(texts.len());
        for text in texts {
            let request = TokenizeRequest { text: text.clone() };
            let tokens = server.tokenize(request).await;
            let tokens = tokens.map_err(|status| failure(&status))?.into_inner();
            ensure!(!tokens.token_ids.is_empty(), "`{text}` has no token");
            all.push(tokens.token_ids);
        }
        Ok(all)
    }

    /// Stops the services that were started.
    ///
    /// # Errors
    /// If one does not end well.
    pub(super) async fn stop(self) -> Result<()> {
        drop(self.connections);
        for service in self.services {
            service.stop().await?;
        }
        Ok(())
    }
}
