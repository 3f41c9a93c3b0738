//! Spans of what a service does, sent to a collector over OTLP where the environment names one.
//!
//! Whoever works notes times; spans are made of them elsewhere, one after another, and sent in
//! batches. What does not fit between is lost and counted: nobody waits for a collector.

use super::{Dialer, DialerSettings};
use crate::{Error, Result};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider},
};
use std::{
    env,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};
use tonic::transport::Uri;

/// Variables that say where spans go; the first one that is set counts.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const TIMEOUTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const CERTIFICATES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
/// Spans that wait to be sent, where nobody says how many; long requests end with many at once.
const QUEUE_VARIABLE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const QUEUE: usize = 8192;
/// Notes of times that wait to become spans.
const NOTES: usize = 4096;
/// Time for a collector to take a batch, where nobody says how long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for what is left at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Where notes go. There is one for the process; without, nobody notes anything.
static SINK: OnceLock<Sink> = OnceLock::new();

/// What makes spans of notes.
pub(super) type Note = Box<dyn FnOnce(&SdkTracer) + Send>;

enum Entry {
    Note(Note),
    /// Everything before it has become spans.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Sink {
    pub(super) tracer: SdkTracer,
    entries: mpsc::Sender<Entry>,
    lost: AtomicU64,
}

impl Sink {
    /// The one of this process, if spans are wanted.
    pub(super) fn get() -> Option<&'static Self> {
        SINK.get()
    }

    /// Takes a note, if there is room.
    pub(super) fn note(&self, note: Note) {
        if self.entries.try_send(Entry::Note(note)).is_err() && self.lost.fetch_add(1, Relaxed) == 0
        {
            tracing::warn!("spans are noted faster than they are made: some are left out");
        }
    }
}

/// Spans on their way, to be ended with the process.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to send spans of `service` where the environment names a collector; `None` where it
    /// names none. To be called once in a process, on its runtime.
    ///
    /// # Errors
    /// If what the environment says cannot be used.
    pub fn start(service: &str) -> Result<Option<Self>> {
        let Some((variable, endpoint)) = first_of(&ENDPOINTS).filter(|_| is_wanted()) else {
            return Ok(None);
        };
        check_protocol()?;
        let exporter = exporter(variable, &endpoint)?;
        let mut config = BatchConfigBuilder::default();
        if env::var_os(QUEUE_VARIABLE).is_none() {
            config = config.with_max_queue_size(QUEUE);
        }
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build());
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service))
            .with_span_processor(processor.build())
            .build();
        let (entries, inbox) = mpsc::channel(NOTES);
        let tracer = provider.tracer("dssd");
        tokio::spawn(make_spans(tracer.clone(), inbox));
        let lost = AtomicU64::new(0);
        let sink = Sink {
            tracer,
            entries,
            lost,
        };
        if SINK.set(sink).is_err() {
            return Err(Error::Service {
                what: "traces",
                reason: "they are sent by this process already".to_owned(),
            });
        }
        // Whatever else a URL holds may be a secret.
        let host = endpoint.parse().ok().and_then(|uri: Uri| {
            let host = uri.host()?;
            Some(host.to_owned())
        });
        tracing::info!(host, "traces are sent");
        Ok(Some(Self(provider)))
    }

    /// Sends what is left, for a bounded time.
    pub async fn end(self) {
        if let Some(sink) = Sink::get() {
            let (done, made) = oneshot::channel();
            let made = async {
                if sink.entries.send(Entry::Flush(done)).await.is_ok() {
                    _ = made.await;
                }
            };
            _ = timeout(FLUSH_TIMEOUT / 3, made).await;
            let lost = sink.lost.load(Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "notes of spans were left out");
            }
        }
        let limit = FLUSH_TIMEOUT * 2 / 3;
        let ended = spawn_blocking(move || self.0.shutdown_with_timeout(limit));
        match timeout(limit * 2, ended).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the collector has not taken the last spans in time"),
        }
    }
}

async fn make_spans(tracer: SdkTracer, mut inbox: mpsc::Receiver<Entry>) {
    while let Some(entry) = inbox.recv().await {
        match entry {
            Entry::Note(note) => note(&tracer),
            Entry::Flush(done) => _ = done.send(()),
        }
    }
}

/// The first of these variables that is set, and what it says.
fn first_of(variables: &[&'static str]) -> Option<(&'static str, String)> {
    let value = |&name: &&'static str| {
        let value = env::var(name).ok()?;
        (!value.is_empty()).then_some((name, value))
    };
    variables.iter().find_map(value)
}

/// Whether spans may be sent at all.
fn is_wanted() -> bool {
    let says = |name: &str, word: &str| {
        let value = env::var(name).unwrap_or_default();
        value.eq_ignore_ascii_case(word)
    };
    !says("OTEL_SDK_DISABLED", "true") && !says("OTEL_TRACES_EXPORTER", "none")
}

fn check_protocol() -> Result<()> {
    match first_of(&PROTOCOLS) {
        Some((variable, protocol)) if protocol != "grpc" => Err(unfit(
            variable,
            format!(
                "is {protocol:?}; traces are sent by grpc alone: set it so, with the collector's port for that (4317 as a rule)"
            ),
        )),
        _ => Ok(()),
    }
}

/// The exporter to what `variable` names. Headers and compression are read by the SDK.
fn exporter(variable: &'static str, endpoint: &str) -> Result<SpanExporter> {
    let form = || unfit(variable, "must be http://HOST:PORT or https://HOST:PORT");
    let uri: Uri = endpoint.parse().map_err(|_| form())?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(form()),
    };
    let settings = DialerSettings {
        ca: first_of(&CERTIFICATES).map(|(_, file)| PathBuf::from(file)),
        ..DialerSettings::default()
    };
    let channel = Dialer::new(settings, secure)?.channel(&uri, export_timeout()?);
    let exporter = SpanExporter::builder().with_tonic().with_channel(channel);
    exporter
        .build()
        .map_err(|error| unfit(variable, error.to_string()))
}

fn export_timeout() -> Result<Duration> {
    let Some((variable, text)) = first_of(&TIMEOUTS) else {
        return Ok(EXPORT_TIMEOUT);
    };
    let millis = text
        .parse()
        .map_err(|_| unfit(variable, "must be milliseconds"));
    Ok(Duration::from_millis(millis?))
}

/// Who sends: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, and `service` where
/// they name none.
fn resource(service: &str) -> Resource {
    const NAME: &str = "service.name";
    let attributes = env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut keys = attributes
        .split(',')
        .filter_map(|pair| pair.split('=').next());
    let named = first_of(&["OTEL_SERVICE_NAME"]).is_some() || keys.any(|key| key.trim() == NAME);
    let builder = Resource::builder();
    match named {
        true => builder.build(),
        false => builder.with_service_name(service.to_owned()).build(),
    }
}

fn unfit(field: &'static str, reason: impl Into<String>) -> Error {
    Error::InvalidParameter {
        field,
        reason: reason.into(),
    }
}
