//! Early exits: the lossy mode, against a slow pass that skips nothing.

use crate::support::*;
use dssd_common::{
    entropy::Summary,
    exit::ExitHeads,
    model::Span,
    sampling::{self, History, Sampler, SamplingParams, Scratch},
    serve::{DeviceName, Dtype, LoadedModel, ModelSettings},
};
use dssd_proto::v1::{
    self, GenerateRequest, Resume, ScoreRequest, Speculation, SpeculationMode, score_request,
};
use tonic::Code;
use tonic_types::StatusExt as _;

type Change = fn(&mut Speculation);

const TOKENS: u32 = 60;
const LAYERS: u64 = 12;
/// Layers before each head, and of the model.
const DEPTHS: [u64; 5] = [2, 4, 7, 9, LAYERS];

fn early_exit(change: impl FnOnce(&mut Speculation)) -> Option<Speculation> {
    let mut speculation = Speculation {
        mode: SpeculationMode::EarlyExit.into(),
        ..Speculation::default()
    };
    change(&mut speculation);
    Some(speculation)
}

fn at_agreement(request: GenerateRequest, target: f32) -> GenerateRequest {
    GenerateRequest {
        speculation: early_exit(|s| s.target_agreement = Some(target)),
        ..request
    }
}

async fn lossy_verifier() -> Verifier {
    verifier(|config| config.allow_lossy = true).await
}

/// Every layer of every position, one position at a time, and all heads at each.
struct Slow {
    model: LoadedModel,
    heads: ExitHeads,
    sequence: dssd_common::kv::SequenceId,
}

impl Slow {
    fn new() -> Self {
        let (checkpoint, _) = open_demo();
        let heads = ExitHeads::find(None, &checkpoint).unwrap().unwrap();
        let mut band_ends: Vec<usize> = heads.heads.iter().map(|head| head.layer).collect();
        band_ends.push(checkpoint.config().layers);
        let settings = ModelSettings {
            device: DeviceName::Cpu,
            threads: Some(1),
            dtype: Dtype::Auto,
            kv_memory: None,
            preallocate_kv: false,
            max_sequences: 1,
            max_context: None,
            band_ends,
        };
        let mut model = settings.load(&checkpoint).unwrap();
        model.decoder.attach_heads(&heads, None).unwrap();
        let sequence = model.kv.open(256).unwrap();
        Self {
            model,
            heads,
            sequence,
        }
    }

    fn thresholds(&self, target: f64) -> Vec<Option<f32>> {
        let calibration = self.heads.calibration.as_ref().unwrap();
        calibration.thresholds(target).unwrap()
    }

    /// Feeds one token; the head where the next one leaves (the number of heads: none), and its
    /// logits there.
    fn next(&mut self, token: u32, thresholds: &[Option<f32>]) -> (usize, Vec<f32>) {
        let Self {
            model, sequence, ..
        } = self;
        let end = model.kv.len(*sequence, 0) + 1;
        let mut found = None;
        let mut logits = Vec::new();
        for (band, layer) in model.decoder.band_ends().to_vec().into_iter().enumerate() {
            let span = Span {
                sequence: *sequence,
                end,
                tokens: &[token],
            };
            let states = model.decoder.advance(&mut model.kv, band, &[span]);
            let states = states.unwrap().to_vec();
            let Some(threshold) = thresholds.get(band) else {
                model.decoder.logits(&states, &mut logits).unwrap();
                return found.unwrap_or((band, logits));
            };
            model
                .decoder
                .exit_logits(layer, &states, &mut logits)
                .unwrap();
            let mut summaries: Vec<Summary> = Vec::new();
            let vocabulary = model.decoder.vocabulary();
            let kernels = model.decoder.kernels();
            kernels.summarize(&logits, vocabulary, &mut summaries);
            if threshold.is_some_and(|nats| summaries[0].entropy <= nats) {
                found = found.or_else(|| Some((band, logits.clone())));
            }
        }
        unreachable!("the last band is the end of the model")
    }

    /// Tokens, and where each of them left (the number of heads: at the end).
    fn generate(
        &mut self,
        prompt: &[u32],
        params: SamplingParams,
        thresholds: &[Option<f32>],
    ) -> (Vec<u32>, Vec<usize>) {
        let vocabulary = self.model.decoder.vocabulary();
        let sampler = Sampler::new(params, vocabulary, Vec::new()).unwrap();
        let mut history = History::new(prompt, &[]);
        let mut left = Vec::new();
        let mut scratch = Scratch::default();
        for &token in &prompt[..prompt.len() - 1] {
            self.next(token, thresholds);
        }
        while history.generated().len() < TOKENS as usize {
            let newest = *history.tokens().last().unwrap();
            let (head, logits) = self.next(newest, thresholds);
            left.push(head);
            history.push(sampler.choose(&logits, &history, &mut scratch).unwrap());
        }
        (history.generated().to_vec(), left)
    }
}

async fn prompt_tokens(verifier: &Verifier) -> Vec<u32> {
    let asked = v1::TokenizeRequest {
        text: PROMPT.into(),
    };
    let answer = client(verifier).await.tokenize(asked).await.unwrap();
    answer.into_inner().token_ids
}

/// Layers computed for tokens that leave at these depths: the end of the prompt goes through the
/// whole model, and what later rows need of earlier ones is filled.
fn computed_layers(depths: &[u64]) -> u64 {
    let later = |at: usize| depths[at..].iter().max().copied().unwrap_or(0);
    LAYERS + (1..depths.len()).map(later).sum::<u64>()
}

fn left(report: &v1::EarlyExit) -> Vec<u64> {
    let heads = report.exit_heads.iter().map(|head| head.count);
    heads.chain([report.whole_model_tokens]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_those_of_the_first_confident_head() {
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let prompt = prompt_tokens(&verifier).await;
    let sampled_params = SamplingParams {
        temperature: 0.8,
        top_p: 0.95,
        seed: 5,
        ..SamplingParams::default()
    };
    for (asked, params) in [
        (request(TOKENS), SamplingParams::default()),
        (sampled(TOKENS, 5), sampled_params),
    ] {
        let mut slow = Slow::new();
        let thresholds = slow.thresholds(0.9);
        let (tokens, exits) = slow.generate(&prompt, params, &thresholds);
        let answer = generate(&mut client, at_agreement(asked, 0.9)).await;
        assert_eq!(answer.token_ids, tokens);
        let finish = answer.finish_info.unwrap();
        assert!(finish.lossy);
        let report = finish.early_exit.unwrap();
        let counts: Vec<u64> = (0..5)
            .map(|head| exits.iter().filter(|&&exit| exit == head).count() as u64)
            .collect();
        assert_eq!(left(&report), counts);
        assert!(counts[0] > 5 && counts[4] > 5, "{counts:?}");
        let told: Vec<_> = report.thresholds.iter().map(|t| Some(t.entropy)).collect();
        assert_eq!(told, thresholds);
        let depths: Vec<u64> = exits.iter().map(|&exit| DEPTHS[exit]).collect();
        let needed: u64 = depths.iter().sum();
        assert_eq!(report.exit_depth, needed as f64 / f64::from(TOKENS));
        let computed = computed_layers(&depths);
        assert!(computed > needed, "some layers are filled late");
        assert_eq!(report.layers_per_token, computed as f64 / f64::from(TOKENS));
        let whole = LAYERS * u64::from(TOKENS);
        let never = (whole - computed) as f64 / (whole - needed) as f64;
        assert_eq!(report.never_filled, never);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_neighbours_nor_small_steps_change_anything() {
    let alone = lossy_verifier().await;
    let mut to_alone = client(&alone).await;
    let lossy = |seed| at_agreement(sampled(TOKENS, seed), 0.9);
    let exact = |seed| sampled(TOKENS, seed);
    let said = |answer: v1::GenerateResponse| {
        let report = answer.finish_info.unwrap().early_exit;
        (answer.token_ids, report)
    };
    let mut wanted = Vec::new();
    for seed in 0..3 {
        wanted.push(said(generate(&mut to_alone, lossy(seed)).await));
        wanted.push(said(generate(&mut to_alone, exact(seed)).await));
        assert_ne!(wanted[wanted.len() - 1].0, wanted[wanted.len() - 2].0);
    }
    let plain = verifier(|_| {}).await;
    let whole = generate(&mut client(&plain).await, exact(0)).await;
    let untouched = said(whole);
    assert_eq!(wanted[1], untouched, "the whole model is untouched");
    assert!(untouched.1.is_none());

    let drafter = drafter().await;
    let crowded = verifier(|config| {
        config.allow_lossy = true;
        // Late rows then need several steps.
        config.serve.max_step_rows = 7;
        config.drafts = vec![drafter.uri()];
    })
    .await;
    let to_crowded = client(&crowded).await;
    let answers = (0..3)
        .flat_map(|seed| [lossy(seed), exact(seed)])
        .map(|asked| {
            let mut client = to_crowded.clone();
            async move { said(generate(&mut client, asked).await) }
        });
    assert_eq!(futures::future::join_all(answers).await, wanted);
}

/// A head that all tokens leave at computes nothing beyond itself; one that none leaves at
/// changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_in_nats_and_a_single_head_are_obeyed() {
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let first = early_exit(|s| (s.entropy_threshold, s.exit_head) = (Some(100.0), Some(0)));
    let mut asked = request(TOKENS);
    asked.speculation = first;
    let report = generate(&mut client, asked.clone()).await.finish_info;
    let report = report.unwrap().early_exit.unwrap();
    assert_eq!(left(&report), [u64::from(TOKENS), 0, 0, 0, 0]);
    assert_eq!(report.exit_depth, 2.0);
    // The end of the prompt goes through the whole model; nothing else does.
    let computed = LAYERS + 2 * u64::from(TOKENS - 1);
    let rows = f64::from(TOKENS);
    assert_eq!(report.layers_per_token, computed as f64 / rows);

    asked.speculation = early_exit(|s| s.entropy_threshold = Some(0.0));
    let never = generate(&mut client, asked.clone()).await;
    let whole = generate(&mut client, plain(asked)).await;
    assert_eq!(never.token_ids, whole.token_ids);
    let report = never.finish_info.unwrap().early_exit.unwrap();
    assert_eq!(report.whole_model_tokens, u64::from(TOKENS));
    assert_eq!((report.exit_depth, report.never_filled), (12.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_those_of_the_exits() {
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let prompt = prompt_tokens(&verifier).await;
    let text = [prompt, library_tokens(&[5], 50)].concat();
    let mut asked = ScoreRequest {
        prompt: Some(score_request::Prompt::TokenIds(v1::TokenIds {
            ids: text.clone(),
        })),
        first_index: Some(4),
        ..ScoreRequest::default()
    };
    let whole = client.score(asked.clone()).await.unwrap().into_inner();
    assert!(!whole.lossy && whole.early_exit.is_none());
    asked.speculation = early_exit(|s| s.target_agreement = Some(0.8));
    let scored = client.score(asked.clone()).await.unwrap().into_inner();
    assert!(scored.lossy);
    assert_ne!(scored.numerics_id, whole.numerics_id);

    let mut slow = Slow::new();
    let thresholds = slow.thresholds(0.8);
    let mut counts = vec![0; 5];
    let mut logprobs = Vec::new();
    for (index, pair) in text.windows(2).enumerate() {
        let (head, logits) = slow.next(pair[0], &thresholds);
        if index + 1 >= 4 {
            counts[head] += 1;
            let found = sampling::logprobs(&logits, pair[1], 0).unwrap();
            logprobs.push(found.chosen.logprob as f32);
        }
    }
    let told: Vec<f32> = scored.logprobs.iter().map(|l| l.logprob).collect();
    assert_eq!(told, logprobs);
    assert_eq!(left(&scored.early_exit.unwrap()), counts);
    assert!(counts[0] > 0 && counts[4] > 0, "{counts:?}");

    asked.speculation = Some(Speculation::default());
    let status = client.score(asked).await.unwrap_err();
    assert!(status.message().contains("speculation.mode"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lossy_answer_resumes_as_the_lossy_answer_that_it_is() {
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let asked = at_agreement(sampled(TOKENS, 3), 0.9);
    let whole = generate(&mut client, asked.clone()).await;
    let exact = generate(&mut client, plain(asked.clone())).await;
    let resumed = |mut asked: GenerateRequest, numerics_id: String| {
        asked.resume = Some(Resume {
            token_ids: whole.token_ids[..20].to_vec(),
            seed: 3,
            numerics_id,
        });
        asked
    };
    let lossy_id = whole.prompt_info.clone().unwrap().numerics_id;
    let exact_id = exact.prompt_info.unwrap().numerics_id;
    let rest = generate(&mut client, resumed(asked.clone(), lossy_id.clone())).await;
    assert_eq!(rest.token_ids, whole.token_ids[20..]);
    let report = rest.finish_info.unwrap().early_exit.unwrap();
    assert_eq!(left(&report).iter().sum::<u64>(), u64::from(TOKENS - 20));
    for (asked, id) in [
        (asked.clone(), exact_id),
        (plain(asked.clone()), lossy_id.clone()),
        (at_agreement(asked, 0.8), lossy_id),
    ] {
        let status = client.generate(resumed(asked, id)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_for_early_exits_is_refused_by_name() {
    let cases: [(&str, Change); 8] = [
        ("speculation.policy", |s| s.policy = "auto".into()),
        ("speculation.max_draft_tokens", |s| {
            s.max_draft_tokens = Some(4)
        }),
        ("speculation.exit_head", |s| s.exit_head = Some(4)),
        ("speculation.target_agreement", |s| {
            s.target_agreement = Some(1.0)
        }),
        ("speculation.target_agreement", |s| {
            s.target_agreement = Some(f32::NAN)
        }),
        ("speculation.target_agreement", |s| {
            s.target_agreement = Some(0.999)
        }),
        ("speculation.entropy_threshold", |s| {
            s.entropy_threshold = Some(-1.0)
        }),
        ("speculation.entropy_threshold", |s| {
            (s.target_agreement, s.entropy_threshold) = (Some(0.9), Some(1.0))
        }),
    ];
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let server = client.get_server_info(v1::GetServerInfoRequest {}).await;
    assert!(server.unwrap().into_inner().allow_lossy);
    for (field, change) in cases {
        let mut asked = request(10);
        asked.speculation = early_exit(change);
        let status = client.generate(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_where_each_token_left() {
    let verifier = lossy_verifier().await;
    let mut client = client(&verifier).await;
    let mut asked = at_agreement(request(TOKENS), 0.9);
    asked.speculation.as_mut().unwrap().trace = true;
    let answer = generate(&mut client, asked).await;
    let finish = answer.finish_info.unwrap();
    // The first token came from the prompt's own pass, which is no round.
    assert_eq!(answer.rounds.len(), TOKENS as usize - 1);
    let thresholds = finish.early_exit.unwrap().thresholds;
    let mut left = 0;
    for round in &answer.rounds {
        let Some(head) = round.exit_head else {
            assert!(round.entropy.is_none());
            continue;
        };
        left += 1;
        let threshold = thresholds.iter().find(|t| t.exit_head == head).unwrap();
        assert!(round.entropy.unwrap() <= threshold.entropy);
    }
    assert!(left > 5);
    let plain_rounds = finish.speculative_decoding.unwrap().plain_rounds;
    let told: Vec<_> = plain_rounds.iter().map(|r| (r.reason(), r.count)).collect();
    assert_eq!(told, [(v1::PlainReason::Off, u64::from(TOKENS) - 1)]);
}
