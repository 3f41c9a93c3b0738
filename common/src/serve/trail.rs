//! The trace that a call belongs to.

use super::traces::Sink;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use std::time::{Instant, SystemTime};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

/// The span of a call, or where none is recorded the one that its caller names, to be passed on.
/// Clones are of the same span.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    context: Context,
    /// When the span began, by both clocks; none if it is not recorded.
    begun: Option<(Instant, SystemTime)>,
}

/// Something that took place within a span.
#[derive(Debug)]
pub struct Part {
    /// What it was.
    pub name: &'static str,
    /// When it began.
    pub begun: Instant,
    /// When it ended.
    pub ended: Instant,
    /// What there is to know of it.
    pub attributes: Vec<KeyValue>,
    /// What took place within it.
    pub parts: Vec<Part>,
}

/// How a span ends.
#[derive(Debug, Default)]
pub struct Ending {
    /// What there is to know at its end.
    pub attributes: Vec<KeyValue>,
    /// The failure, if it was one of the service.
    pub failure: Option<String>,
}

impl Trail {
    /// The span `name` of a call that arrives now, within the one that its metadata names.
    pub fn of_call(name: &'static str, metadata: &MetadataMap) -> Self {
        let propagator = TraceContextPropagator::new();
        let parent = propagator.extract_with_context(&Context::new(), &Carrier(metadata));
        let Some(sink) = Sink::get() else {
            return Self {
                context: parent,
                begun: None,
            };
        };
        let begun = (Instant::now(), SystemTime::now());
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(begun.1);
        let span = sink.tracer.build_with_context(builder, &parent);
        let recorded = span.is_recording();
        Self {
            context: parent.with_span(span),
            begun: recorded.then_some(begun),
        }
    }

    /// Whether somebody wants to know what takes place.
    pub fn is_recorded(&self) -> bool {
        self.begun.is_some()
    }

    /// Adds something that there is to know of the span.
    pub fn tell(&self, key: &'static str, value: &str) {
        if self.is_recorded() {
            let value = KeyValue::new(key, value.to_owned());
            self.context.span().set_attribute(value);
        }
    }

    /// Takes note of what took place within the span; `part` is called later, elsewhere.
    pub fn note(&self, part: impl FnOnce() -> Part + Send + 'static) {
        let (Some(sink), Some(begun)) = (Sink::get(), self.begun) else {
            return;
        };
        let context = self.context.clone();
        sink.note(Box::new(move |tracer| {
            record(tracer, &context, begun, part());
        }));
    }

    /// Ends the span now; `ending` is called later, elsewhere. What is noted afterwards counts still.
    pub fn end(&self, ending: impl FnOnce() -> Ending + Send + 'static) {
        let (Some(sink), Some(begun)) = (Sink::get(), self.begun) else {
            return;
        };
        let (context, ended) = (self.context.clone(), Instant::now());
        sink.note(Box::new(move |_| {
            let (span, ending) = (context.span(), ending());
            span.set_attributes(ending.attributes);
            if let Some(failure) = ending.failure {
                span.set_status(Status::error(failure));
            }
            span.end_with_timestamp(at(begun, ended));
        }));
    }

    /// Names the span to whom is called in turn.
    pub fn inject(&self, metadata: &mut MetadataMap) {
        TraceContextPropagator::new().inject_context(&self.context, &mut Carrier(metadata));
    }
}

/// Makes a span of a part, and of the parts within it.
fn record(tracer: &SdkTracer, parent: &Context, begun: (Instant, SystemTime), part: Part) {
    let builder = SpanBuilder::from_name(part.name)
        .with_start_time(at(begun, part.begun))
        .with_attributes(part.attributes);
    let span = tracer.build_with_context(builder, parent);
    let context = parent.with_span(span);
    for part in part.parts {
        record(tracer, &context, begun, part);
    }
    context.span().end_with_timestamp(at(begun, part.ended));
}

/// A moment by the clock of the wall: one that is set meanwhile does not tear a trace apart.
fn at(begun: (Instant, SystemTime), moment: Instant) -> SystemTime {
    begun.1 + moment.saturating_duration_since(begun.0)
}

/// Metadata as the propagator sees it.
struct Carrier<M>(M);

impl Extractor for Carrier<&MetadataMap> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        // The propagator asks by name.
        Vec::new()
    }
}

impl Injector for Carrier<&mut MetadataMap> {
    fn set(&mut self, key: &str, value: String) {
        let key = MetadataKey::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_the_callers_span_is_passed_on() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", parent.parse().unwrap());
        let trail = Trail::of_call("call", &metadata);
        assert!(!trail.is_recorded());
        let mut onward = MetadataMap::new();
        trail.inject(&mut onward);
        assert_eq!(onward.get("traceparent").unwrap(), parent);
    }

    #[test]
    fn what_is_no_span_is_passed_on_to_nobody() {
        let mut metadata = MetadataMap::new();
        for nonsense in ["", "00-0-0-01", "nonsense"] {
            metadata.insert("traceparent", nonsense.parse().unwrap());
            let mut onward = MetadataMap::new();
            Trail::of_call("call", &metadata).inject(&mut onward);
            assert!(onward.is_empty(), "{nonsense:?}: {onward:?}");
        }
    }
}
