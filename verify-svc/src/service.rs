//! From settings to a running service.

use crate::{
    Config, Error, Result,
    drafters::Drafters,
    engine::{EngineHandle, EngineLimits, EngineParts},
    metrics::{Metrics, Source},
    page::Page,
    served::{Exits, Served},
    server::Server,
};
use dssd_common::{
    checkpoint::{Checkpoint, demo},
    exit::{self, DEFAULT_EXITS, ExitHeads},
    serve::{
        Engine, Front, Health, Http, Listeners, LoadedModel, MAX_MESSAGE_BYTES, Readable, Service,
        Switch, load_blocking, open_model, registry,
    },
    tokenizer::Tokenizer,
};
use dssd_proto::{FILE_DESCRIPTOR_SET, v1::generation_server::GenerationServer};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A checkpoint with its tokenizer, if it has one.
type Opened = (Arc<Checkpoint>, Option<Arc<Tokenizer>>);

/// The calls that work for a client, which --max-streams-per-token counts.
const COUNTED: [&str; 5] = [
    "Generate",
    "GenerateStream",
    "Score",
    "Tokenize",
    "Detokenize",
];

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
    let http = Http::start(listeners.http, &health, registry);
    let (checkpoint, tokenizer) = opened.await?;
    let door = config
        .serve
        .door
        .build::<GenerationServer<Server>>(&COUNTED)?;
    let dialer = config.dial.dialer(&config.drafts)?;
    let drain = config.serve.drain();
    let settings = config.clone();
    let (served, loaded, free_rows) =
        load_blocking(move || load(&settings, name, &checkpoint, tokenizer)).await?;
    let front = Front::new::<GenerationServer<Server>>(
        &health,
        &door,
        config.serve.reflection,
        FILE_DESCRIPTOR_SET,
    )
    .await?;
    let limits = EngineLimits {
        max_sequences: config.serve.max_sequences,
        max_step_rows: config.serve.max_step_rows,
        max_prefill_rows: config.max_prefill_rows(),
        max_queue: config.max_queue(),
        max_queue_wait: config.max_queue_wait,
        read_timeout: config.read_timeout,
        free_rows,
    };
    // Names are resolved as long as generations may run, so beyond the shutdown.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let drafters = (!config.drafts.is_empty())
        .then(|| Drafters::start(config.drafts, dialer, Arc::clone(&metrics), ended));
    let (engine, thread) = EngineHandle::start(EngineParts {
        decoder: loaded.decoder,
        kv: loaded.kv,
        tokenizer: served.tokenizer.clone(),
        drafters: drafters.clone(),
        prefix_cache: config.prefix_cache == Switch::On,
        limits,
        metrics: Arc::clone(&metrics),
    })?;
    metrics.watch(Source {
        engine: engine.clone(),
        drafters: drafters.clone(),
    });
    let tokenizer = served.tokenizer.clone();
    let server = Arc::new(Server::new(engine.clone(), served, drafters, metrics));
    if config.page == Switch::On {
        let server = Arc::clone(&server);
        http.mount(Page::new(server, tokenizer, door.gate()).router());
    }
    let server = GenerationServer::from_arc(server).max_decoding_message_size(MAX_MESSAGE_BYTES);
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
    fn drain(&self) {
        EngineHandle::drain(self);
    }

    fn stop(&self) {
        self.shutdown();
    }
}

fn load(
    config: &Config,
    name: String,
    checkpoint: &Checkpoint,
    tokenizer: Option<Arc<Tokenizer>>,
) -> Result<(Served, LoadedModel, usize)> {
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
    // Without drafters nobody asks.
    let free_rows = match config.drafts.is_empty() {
        true => 1,
        false => loaded.free_rows()?,
    };
    let mut served = Served::new(config, name, checkpoint, tokenizer, &loaded)?;
    served.exits = config
        .allow_lossy
        .then(|| Exits::new(heads, loaded.decoder.band_ends()));
    tracing::info!(
        model = served.model.model_name,
        numerics_id = served.model.numerics_id,
        max_context = served.model.max_context,
        free_rows,
        "model loaded"
    );
    Ok((served, loaded, free_rows))
}
