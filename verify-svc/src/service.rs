//! From settings to a running service.

use crate::{
    Config, Error, Result,
    drafters::Drafters,
    engine::{EngineHandle, EngineLimits, EngineParts},
    served::{Exits, Served},
    server::Server,
};
use dssd_common::{
    checkpoint::Checkpoint,
    exit::{self, DEFAULT_EXITS, ExitHeads},
    serve::{Engine, Front, LoadedModel, MAX_MESSAGE_BYTES, Service, load_blocking, open_model},
    tokenizer::Tokenizer,
};
use dssd_proto::{FILE_DESCRIPTOR_SET, v1::generation_server::GenerationServer};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Loads the model that `config` names and serves it on `listener` until `shutdown`.
///
/// # Errors
/// If a setting or the model is unfit, or the server fails.
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    let dir = config.serve.model.clone();
    let (checkpoint, tokenizer) = load_blocking(move || open_model(dir.as_deref())).await?;
    run_with(config, checkpoint, tokenizer, listener, shutdown).await
}

/// Serves a checkpoint that is in memory; `config.serve.model` is not read.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    checkpoint: Arc<Checkpoint>,
    tokenizer: Option<Arc<Tokenizer>>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<()> {
    let settings = config.clone();
    let (served, loaded) = load_blocking(move || load(&settings, &checkpoint, tokenizer)).await?;
    let front =
        Front::new::<GenerationServer<Server>>(config.serve.reflection, FILE_DESCRIPTOR_SET)
            .await?;
    let limits = EngineLimits {
        max_sequences: config.serve.max_sequences,
        max_step_rows: config.serve.max_step_rows,
        max_prefill_rows: config.max_prefill_rows(),
        max_queue: config.max_queue(),
        max_queue_wait: config.max_queue_wait,
        read_timeout: config.read_timeout,
    };
    // Names are resolved as long as generations may run, so beyond the shutdown.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let drafters = (!config.drafts.is_empty()).then(|| Drafters::start(config.drafts, ended));
    let (engine, thread) = EngineHandle::start(EngineParts {
        decoder: loaded.decoder,
        kv: loaded.kv,
        tokenizer: served.tokenizer.clone(),
        drafters: drafters.clone(),
        limits,
    })?;
    let server = Server::new(engine.clone(), served, drafters);
    let server = GenerationServer::new(server).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let service = Service {
        router: front.router.add_service(server),
        health: front.health,
        engine,
        thread,
        drain_timeout: config.serve.drain_timeout,
    };
    Ok(service.run(listener, shutdown).await?)
}

impl Engine for EngineHandle {
    fn drain(&self) {
        EngineHandle::drain(self);
    }

    fn stop(&self) {
        self.shutdown();
    }
}

fn load(
    config: &Config,
    checkpoint: &Checkpoint,
    tokenizer: Option<Arc<Tokenizer>>,
) -> Result<(Served, LoadedModel)> {
    config.check()?;
    let (held, layers) = (checkpoint.layers_held(), checkpoint.config().layers);
    if held < layers {
        return Err(Error::Config(format!(
            "--model: the folder is a split one with {held} of {layers} layers, which is for draft-svc: give the whole model"
        )));
    }
    let heads = match config.allow_lossy {
        true => ExitHeads::find(config.heads.as_deref(), checkpoint)?,
        false => None,
    };
    let mut band_ends = match (&heads, config.allow_lossy) {
        (Some(heads), _) => heads.heads.iter().map(|head| head.layer).collect(),
        (None, true) => exit::placement(layers, DEFAULT_EXITS),
        (None, false) => Vec::new(),
    };
    band_ends.push(layers);
    let settings = config.serve.model_settings(band_ends);
    let mut loaded = settings.load(checkpoint)?;
    if let Some(heads) = &heads {
        let compute = config.serve.dtype.compute();
        loaded.decoder.attach_heads(heads, compute)?;
    }
    loaded.warm_up()?;
    let mut served = Served::new(config, checkpoint, tokenizer, &loaded)?;
    served.exits = config
        .allow_lossy
        .then(|| Exits::new(heads, loaded.decoder.band_ends()));
    tracing::info!(
        model = served.model.model_name,
        numerics_id = served.model.numerics_id,
        max_context = served.model.max_context,
        "model loaded"
    );
    Ok((served, loaded))
}
