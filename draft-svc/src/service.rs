//! From settings to a running service.

use crate::{
    Config, Error, Result,
    engine::{EngineHandle, EngineParts},
    metrics::Metrics,
    server::Server,
    session::DrafterProfile,
};
use dssd_common::{
    checkpoint::{Checkpoint, demo},
    exit::{self, Calibration, DEFAULT_EXITS, ExitHeads},
    policy::{Experience, PolicySpec, Setting},
    serve::{
        Engine, Front, Health, Http, Listeners, MAX_MESSAGE_BYTES, Readable, Service,
        load_blocking, open_model, registry,
    },
    tokenizer::Tokenizer,
};
use dssd_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{GetDrafterInfoResponse, drafting_server::DraftingServer},
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A checkpoint with its tokenizer, if it has one.
type Opened = (Arc<Checkpoint>, Option<Arc<Tokenizer>>);

/// Loads the model that `config` names and serves it on `listeners` until `shutdown`.
///
/// # Errors
/// If a setting or the model is unfit, or the server fails.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    let dir = config.serve.model.clone().map_or_else(demo::folder, Ok)?;
    let name = config.serve.model_name(Some(&dir));
    let opened = load_blocking(move || Ok(open_model(Some(&dir))?));
    serve(config, name, opened, listeners, shutdown).await
}

/// Serves a checkpoint that is in memory; `config.serve.model` is not read.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    checkpoint: Arc<Checkpoint>,
    tokenizer: Option<Arc<Tokenizer>>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<()> {
    let name = config.serve.model_name(checkpoint.dir());
    let opened = std::future::ready(Ok((checkpoint, tokenizer)));
    serve(config, name, opened, listeners, shutdown).await
}

async fn serve(
    config: Config,
    name: String,
    opened: impl Future<Output = Result<Opened>>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<()> {
    let health = Health::default();
    let mut registry = registry(&name, env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(Metrics::default());
    metrics.register(&mut registry);
    let _http = Http::start(listeners.http, &health, registry);
    let (checkpoint, tokenizer) = opened.await?;
    let (drain, reflection) = (config.serve.drain(), config.serve.reflection);
    let door = config
        .serve
        .door
        .build::<DraftingServer<Server>>(&["Draft"])?;
    let mut parts = load_blocking(move || load(&config, &checkpoint, tokenizer.as_deref())).await?;
    parts.metrics = metrics;
    let info = describe(&parts);
    let front =
        Front::new::<DraftingServer<Server>>(&health, &door, reflection, FILE_DESCRIPTOR_SET)
            .await?;
    let (engine, thread) = EngineHandle::start(parts)?;
    let server = DraftingServer::new(Server::new(engine.clone(), info))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let service = Service {
        router: front.router.add_service(Readable::new(server)),
        health,
        door,
        engine,
        thread,
        drain,
    };
    Ok(service.run(listeners.grpc, shutdown).await?)
}

impl Engine for EngineHandle {
    /// Verifiers go on without a drafter, so there is nothing to wait for.
    fn drain(&self) {
        self.shutdown();
    }

    fn stop(&self) {
        self.shutdown();
    }
}

pub(crate) fn load(
    config: &Config,
    checkpoint: &Checkpoint,
    tokenizer: Option<&Tokenizer>,
) -> Result<EngineParts> {
    let default_policy = config.check()?;
    let heads = match config.exits {
        Some(_) => None,
        None => ExitHeads::find(config.heads.as_deref(), checkpoint)?,
    };
    let band_ends = match &heads {
        Some(heads) => heads.heads.iter().map(|head| head.layer).collect(),
        None => untrained_exits(config, checkpoint),
    };
    let settings = config.serve.model_settings(band_ends);
    let mut model = settings.load(checkpoint)?;
    if let Some(heads) = &heads {
        model
            .decoder
            .attach_heads(heads, config.serve.dtype.compute())?;
    }
    model.warm_up()?;
    let calibration = heads.and_then(|heads| heads.calibration);
    check_policy(
        default_policy,
        model.decoder.band_ends(),
        calibration.as_ref(),
    )?;
    let profile = DrafterProfile {
        checkpoint_fingerprint: checkpoint.fingerprint()?,
        tokenizer_hash: tokenizer.map_or_else(String::new, |t| t.hash().to_owned()),
        vocabulary_size: checkpoint.config().vocabulary as u32,
        max_context: model.max_context,
        max_draft_tokens: config.serve.max_draft_tokens,
        exit_layers: model
            .decoder
            .band_ends()
            .iter()
            .map(|&l| l as u32)
            .collect(),
        calibration_id: calibration
            .as_ref()
            .map_or_else(String::new, Calibration::hash),
    };
    tracing::info!(
        fingerprint = profile.checkpoint_fingerprint,
        exits = ?profile.exit_layers,
        policy = %default_policy,
        work_ahead = %config.work_ahead,
        "model loaded"
    );
    let exits = model.decoder.band_ends().len();
    Ok(EngineParts {
        experience: Experience::new(exits, calibration),
        decoder: model.decoder,
        kv: model.kv,
        default_policy,
        work_ahead: config.work_ahead,
        profile,
        max_sequences: config.serve.max_sequences,
        max_step_rows: config.serve.max_step_rows,
        metrics: Arc::default(),
    })
}

fn untrained_exits(config: &Config, checkpoint: &Checkpoint) -> Vec<usize> {
    config.exits.clone().unwrap_or_else(|| {
        let mut exits = exit::placement(checkpoint.config().layers, DEFAULT_EXITS);
        // A split folder holds the first layers only.
        exits.retain(|&layer| layer <= checkpoint.layers_held());
        exits
    })
}

fn check_policy(
    policy: PolicySpec,
    exits: &[usize],
    calibration: Option<&Calibration>,
) -> Result<()> {
    let setting = Setting {
        exits,
        max_draft_tokens: 1,
        calibration,
        temperature: 0.0,
    };
    match policy.build(setting) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Config(format!("--policy: {error}"))),
    }
}

fn describe(parts: &EngineParts) -> GetDrafterInfoResponse {
    let profile = parts.profile.clone();
    GetDrafterInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        checkpoint_fingerprint: profile.checkpoint_fingerprint,
        tokenizer_hash: profile.tokenizer_hash,
        vocabulary_size: profile.vocabulary_size,
        exit_layers: profile.exit_layers,
        calibration_id: profile.calibration_id,
        max_context: profile.max_context as u32,
        max_draft_tokens: profile.max_draft_tokens,
        default_policy: parts.default_policy.to_string(),
        load: None,
        work_ahead: parts.work_ahead.to_string(),
        exit_heads: Vec::new(),
    }
}
