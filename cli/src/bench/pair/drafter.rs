//! A drafter that does all the work of drafting at the first exit, and then proposes what an
//! oracle says: a pair with random weights and the costs of a real one.

use super::first_exit;
use crate::{
    bench::subject::Subject,
    oracle::{Oracle, Prophecy},
};
use draft_svc::session::{DraftSession, DrafterProfile};
use dssd_common::{
    kernels::Kernels,
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Device, Readout, Reads, Span},
    policy::{PolicySettings, PolicySpec},
    sampling::Choice,
};
use dssd_proto::v1::{
    DraftStopReason, DrafterLoad, DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse,
    Open, VerifierMessage, drafting_server::Drafting,
};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Longest draft.
const MAX_DRAFT_TOKENS: u32 = 16;
/// Positions of a sequence, prompt included.
const MAX_CONTEXT: usize = 1024;
/// Streams may overlap for a moment at their ends.
const SEQUENCES: usize = 4;
/// Answers that may wait; a verifier asks for one at a time.
const OUTBOX: usize = 16;

/// Bytes read for a drafted token, as a share of those of a pass of the whole model.
///
/// # Errors
/// If a tensor is unfit.
pub(super) fn share_of_a_pass(subject: &Subject) -> anyhow::Result<f64> {
    let bytes = |layers| {
        let kernels = Arc::clone(&subject.kernels);
        // Nothing is computed: the weights may stay where they are.
        let decoder = decoder(&Device::Cpu, subject, kernels, layers)?;
        anyhow::Ok(decoder.bytes_per_pass())
    };
    let whole = bytes(subject.checkpoint.config().layers)?;
    Ok(bytes(first_exit(subject)?)? as f64 / whole as f64)
}

fn decoder(
    device: &Device,
    subject: &Subject,
    kernels: Arc<Kernels>,
    layers: usize,
) -> anyhow::Result<Decoder> {
    let options = DecoderOptions {
        band_ends: vec![layers],
        compute: subject.dtype.compute(),
        max_context: subject.checkpoint.config().max_positions.min(MAX_CONTEXT),
    };
    Ok(Decoder::load_on(
        device,
        &subject.checkpoint,
        kernels,
        options,
    )?)
}

/// The drafter, as a gRPC service.
pub(super) struct WorkingDrafter {
    shared: Arc<Shared>,
}

struct Shared {
    oracle: Oracle,
    profile: DrafterProfile,
    model: Mutex<Model>,
    started: Instant,
}

struct Model {
    decoder: Decoder,
    kv: KvCache,
    readout: Readout,
}

impl WorkingDrafter {
    /// Loads the layers up to the first exit.
    ///
    /// # Errors
    /// If a tensor is unfit.
    pub(super) fn load(
        subject: &Subject,
        kernels: Arc<Kernels>,
        oracle: Oracle,
    ) -> anyhow::Result<Self> {
        let layer = first_exit(subject)?;
        let mut decoder = decoder(&subject.device.open()?, subject, kernels, layer)?;
        let layout = decoder.kv_layout();
        let bytes = SEQUENCES * layout.blocks_for(MAX_CONTEXT) * layout.block_bytes();
        let profile = DrafterProfile {
            checkpoint_fingerprint: subject.checkpoint.fingerprint()?,
            vocabulary_size: subject.checkpoint.config().vocabulary as u32,
            max_context: MAX_CONTEXT,
            max_draft_tokens: MAX_DRAFT_TOKENS,
            exit_layers: vec![layer as u32],
            ..DrafterProfile::default()
        };
        let model = Model {
            kv: decoder.kv_cache(bytes)?,
            decoder,
            readout: Readout::default(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                oracle,
                profile,
                model: Mutex::new(model),
                started: Instant::now(),
            }),
        })
    }
}

#[tonic::async_trait]
impl Drafting for WorkingDrafter {
    type DraftStream = ReceiverStream<Result<DrafterMessage, Status>>;

    async fn draft(
        &self,
        request: Request<Streaming<VerifierMessage>>,
    ) -> Result<Response<Self::DraftStream>, Status> {
        let (outbox, answers) = mpsc::channel(OUTBOX);
        let (sender, messages) = std::sync::mpsc::channel();
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name("oracle-drafter".to_owned())
            .spawn(move || {
                if let Err(status) = serve(&shared, &messages, &outbox) {
                    // A verifier that is gone needs no reason.
                    _ = outbox.blocking_send(Err(status));
                }
            })?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get_drafter_info(
        &self,
        _: Request<GetDrafterInfoRequest>,
    ) -> Result<Response<GetDrafterInfoResponse>, Status> {
        let profile = self.shared.profile.clone();
        Ok(Response::new(GetDrafterInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint_fingerprint: profile.checkpoint_fingerprint,
            vocabulary_size: profile.vocabulary_size,
            exit_layers: profile.exit_layers,
            max_context: profile.max_context as u32,
            max_draft_tokens: profile.max_draft_tokens,
            ..GetDrafterInfoResponse::default()
        }))
    }
}

type Outbox = mpsc::Sender<Result<DrafterMessage, Status>>;

/// Answers the messages of one stream until it ends.
fn serve(
    shared: &Shared,
    messages: &Receiver<VerifierMessage>,
    outbox: &Outbox,
) -> Result<(), Status> {
    let mut session = DraftSession::new(shared.profile.clone());
    let mut draft: Option<Draft<'_>> = None;
    for message in messages {
        let load = DrafterLoad::default();
        let answer = session
            .on_message(message, shared.started.elapsed(), load)
            .map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
        let mut answers: Vec<DrafterMessage> = answer.into_iter().collect();
        if draft.is_none() {
            draft = session
                .settings()
                .map(|open| Draft::open(shared, open))
                .transpose()?;
        }
        if let Some(draft) = &mut draft {
            draft.work(&mut session, &mut answers)?;
        }
        for answer in answers {
            if outbox.blocking_send(Ok(answer)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The drafting of one stream.
struct Draft<'a> {
    shared: &'a Shared,
    prophecy: Prophecy,
    sequence: SequenceId,
    tokens: usize,
}

impl<'a> Draft<'a> {
    fn open(shared: &'a Shared, open: &Open) -> Result<Self, Status> {
        let tokens = draft_tokens(open)?;
        let mut model = shared.model();
        let sequence = model.kv.open(MAX_CONTEXT).map_err(internal)?;
        let prophecy = shared.oracle.prophecy(open);
        Ok(Self {
            shared,
            prophecy,
            sequence,
            tokens,
        })
    }

    /// Runs what the session plans: the feed, and the draft that is asked for.
    fn work(
        &mut self,
        session: &mut DraftSession,
        answers: &mut Vec<DrafterMessage>,
    ) -> Result<(), Status> {
        let mut model = self.shared.model();
        let mut drafted = 0;
        loop {
            let now: Duration = self.shared.started.elapsed();
            let full = (drafted == self.tokens).then_some(DraftStopReason::MaxDraft);
            if let Some(reason) = full.or_else(|| session.must_stop(now)) {
                answers.extend(session.finished(reason, now, DrafterLoad::default()));
                drafted = 0;
                continue;
            }
            let plan = session.plan();
            let (feed, start, goal) = (plan.feed.to_vec(), plan.truncate_to, plan.goal);
            if feed.is_empty() {
                return Ok(());
            }
            model.run(self.sequence, start, &feed, goal.is_some())?;
            answers.extend(session.fed(feed.len(), DrafterLoad::default()));
            if goal.is_some() {
                let summary = model.readout.summaries().first();
                let entropy = summary.map_or(0.0, |summary| summary.entropy);
                let mut token = self.prophecy.propose(session.tokens().len() as u32);
                token.entropy = entropy;
                session.drafted(token);
                drafted += 1;
            }
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.shared.model().kv.close(self.sequence);
    }
}

impl Shared {
    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        // A pass that panicked left no step uncommitted, so the cache is as before it.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    /// Takes a sequence from position `start` through the layers, and if `decides` reads the
    /// exit at its last row.
    fn run(
        &mut self,
        sequence: SequenceId,
        start: usize,
        tokens: &[u32],
        decides: bool,
    ) -> Result<(), Status> {
        self.kv.truncate(sequence, start);
        let span = Span {
            sequence,
            end: start + tokens.len(),
            tokens,
        };
        // As draft-svc does at an exit without a trained head.
        let read = usize::from(decides);
        let reads = Reads {
            exit: None,
            rows: &[tokens.len() as u32 - 1][..read],
            choices: &[Some(Choice::GREEDY)][..read],
            summaries: true,
        };
        (self.decoder)
            .step(&mut self.kv, 0, &[span], reads, &mut self.readout)
            .map_err(internal)?;
        Ok(())
    }
}

/// The draft length of the policy that an Open names, which must be `fixed` at the first exit.
fn draft_tokens(open: &Open) -> Result<usize, Status> {
    let asked = open.speculation.clone().unwrap_or_default();
    let settings = PolicySettings {
        exit_head: asked.exit_head.map(|head| head as usize),
        tokens: asked.max_draft_tokens.map(|tokens| tokens as usize),
        entropy_threshold: asked.entropy_threshold,
        target_agreement: asked.target_agreement,
    };
    match PolicySpec::from_settings(&asked.policy, settings) {
        Ok(PolicySpec::Fixed { head: 0, tokens }) => Ok(tokens),
        _ => Err(Status::invalid_argument(format!(
            "the oracle drafter knows fixed:0:TOKENS alone, not `{}`",
            asked.policy
        ))),
    }
}

fn internal(error: dssd_common::Error) -> Status {
    Status::internal(error.to_string())
}
