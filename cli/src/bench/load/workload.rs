//! What is asked: requests that follow from a seed and a number alone.

use super::{lengths::Lengths, target::Target};
use crate::{check::prompts, request::speculation};
use anyhow::{Context as _, Result, ensure};
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, TokenIds, generate_request::Prompt};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;

/// The stream of the seed that the shared prefix is drawn from; requests have those of their numbers.
const PREFIX_STREAM: u64 = u64::MAX;

/// Requests that the mean length of answers is taken from.
const MEAN_OF: u64 = 4096;

/// What requests are made of.
#[derive(clap::Args)]
pub(super) struct WorkloadArgs {
    /// Tokens of each prompt, behind the shared prefix: fixed:N, uniform:FROM:TO or exponential:MEAN[:MAX].
    #[arg(long, value_name = "LENGTHS", default_value_t = Lengths::Fixed(32))]
    prompt_tokens: Lengths,
    /// Tokens of each answer, in the same forms; end-of-sequence tokens do not end answers.
    #[arg(long, value_name = "LENGTHS", default_value_t = Lengths::Fixed(64))]
    output_tokens: Lengths,
    /// Whole prompts out of a file, one a line, or JSON lines with `prompt` or `turns` [default: pieces of stories].
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_tokens")]
    prompts: Option<PathBuf>,
    /// Prompts of random tokens: little can be foretold of what follows.
    #[arg(long, conflicts_with = "prompts")]
    random_prompts: bool,
    /// Tokens that all prompts begin with; servers may reuse them within a measurement, and never across.
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_prefix: u32,
    /// Temperature of sampled answers; 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Share of the answers that are sampled at --temperature; the others are greedy.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "temperature", value_parser = share)]
    sampled_share: f64,
    /// What prompts, lengths, arrivals and sampling follow from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

fn share(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok();
    value
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// Where prompts come from.
enum Material {
    /// Pieces of texts that follow each other.
    Texts(Vec<Vec<u32>>),
    /// Whole prompts.
    Prompts(Vec<Vec<u32>>),
    /// Arbitrary ids below this number.
    Random(u32),
}

/// Makes requests: those with one number are always the same.
pub(super) struct Workload {
    material: Material,
    prefix: Vec<u32>,
    prompt_tokens: Lengths,
    output_tokens: Lengths,
    temperature: f32,
    sampled_share: f64,
    seed: u64,
}

/// What one request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) prompt: Vec<u32>,
    pub(super) output_tokens: u32,
    pub(super) temperature: f32,
    pub(super) seed: u64,
}

impl WorkloadArgs {
    /// The workload for a server, which knows tokens and limits.
    ///
    /// # Errors
    /// If the server does not tell them, or the longest request does not fit.
    pub(super) async fn open(&self, target: &Target) -> Result<Workload> {
        let limits = target.limits().await?;
        let material = match &self.prompts {
            Some(path) => Material::Prompts(target.tokenize(&prompts::read(path)?).await?),
            None if self.random_prompts => Material::Random(limits.vocabulary),
            None => Material::Texts(
                (target.tokenize(&prompts::openings()).await)
                    .context("stories need a tokenizer; without one, use --random-prompts")?,
            ),
        };
        let workload = Workload::new(self, material);
        let (longest, most) = (workload.most_tokens(), limits.max_context);
        ensure!(
            longest <= u64::from(most),
            "prefix, prompt and answer may have {longest} tokens together, and the server takes {most}: \
             shorten --shared-prefix, --prompt-tokens or --output-tokens (exponential:MEAN:MAX cuts the longest)"
        );
        Ok(workload)
    }
}

impl Workload {
    fn new(args: &WorkloadArgs, material: Material) -> Self {
        let mut random = stream(args.seed, PREFIX_STREAM);
        Self {
            prefix: material.piece(args.shared_prefix as usize, &mut random),
            material,
            prompt_tokens: args.prompt_tokens,
            output_tokens: args.output_tokens,
            temperature: args.temperature,
            sampled_share: args.sampled_share,
            seed: args.seed,
        }
    }

    /// Mean length of the answers.
    pub(super) fn mean_output_tokens(&self) -> f64 {
        let all = (0..MEAN_OF).map(|number| f64::from(self.work(number).output_tokens));
        all.sum::<f64>() / MEAN_OF as f64
    }

    /// What all follows from.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The most tokens of one request, answer included.
    fn most_tokens(&self) -> u64 {
        let prompt = match &self.material {
            Material::Prompts(all) => all.iter().map(Vec::len).max().unwrap_or(0) as u64,
            _ => u64::from(self.prompt_tokens.most()),
        };
        self.prefix.len() as u64 + prompt + u64::from(self.output_tokens.most())
    }

    /// What request `number` asks for.
    pub(super) fn work(&self, number: u64) -> Work {
        let mut random = stream(self.seed, number);
        let length = self.prompt_tokens.draw(&mut random) as usize;
        let prompt = match &self.material {
            Material::Prompts(all) => all[random.random_range(0..all.len())].clone(),
            material => material.piece(length, &mut random),
        };
        let sampled = random.random::<f64>() < self.sampled_share;
        Work {
            prompt: [self.prefix.as_slice(), &prompt].concat(),
            output_tokens: self.output_tokens.draw(&mut random),
            temperature: if sampled { self.temperature } else { 0.0 },
            seed: random.random(),
        }
    }

    /// The same, with an answer that is cut short at random: streams that begin together are not in
    /// step after it.
    pub(super) fn first_work(&self, number: u64) -> Work {
        let mut work = self.work(number);
        let mut random = stream(work.seed, number);
        work.output_tokens = random.random_range(1..=work.output_tokens);
        work
    }
}

impl Material {
    /// `length` tokens. Texts are taken from the begin of one on, as many as it takes.
    fn piece(&self, length: usize, random: &mut ChaCha8Rng) -> Vec<u32> {
        match self {
            Self::Texts(texts) | Self::Prompts(texts) => {
                let first = random.random_range(0..texts.len());
                let on = texts.iter().cycle().skip(first).flatten();
                on.take(length).copied().collect()
            }
            Self::Random(vocabulary) => (0..length)
                .map(|_| random.random_range(0..*vocabulary))
                .collect(),
        }
    }
}

/// Random numbers that follow from a seed and the number of their stream.
fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    random
}

/// A `cache_salt` for one measurement: what earlier ones left in prefix caches is of no use to it, or
/// whatever runs second would have less to compute.
pub(super) fn fresh_salt() -> String {
    format!("bench-{:032x}", rand::random::<u128>())
}

impl Work {
    /// The request for it.
    pub(super) fn request(self, policy: PolicySpec, cache_salt: &str) -> GenerateRequest {
        GenerateRequest {
            prompt: Some(Prompt::TokenIds(TokenIds { ids: self.prompt })),
            max_new_tokens: Some(self.output_tokens),
            temperature: Some(self.temperature),
            seed: Some(self.seed),
            ignore_eos: true,
            cache_salt: cache_salt.to_owned(),
            speculation: Some(speculation(Some(policy))),
            ..GenerateRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Material, Workload, WorkloadArgs};
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        workload: WorkloadArgs,
    }

    fn workload(flags: &str, material: Material) -> Workload {
        let flags = ["load"].into_iter().chain(flags.split_whitespace());
        Workload::new(&Flags::parse_from(flags).workload, material)
    }

    fn texts() -> Material {
        Material::Texts(vec![vec![1, 2, 3], vec![4, 5]])
    }

    #[test]
    fn a_number_makes_its_request_again_and_another_number_makes_others() {
        let flags = "--prompt-tokens uniform:4:40 --output-tokens exponential:20 --temperature 1";
        let random = || workload(flags, Material::Random(1000));
        let one = random().work(7);
        assert_eq!(one, random().work(7));
        assert_ne!(one, random().work(8));
        let other_seed = workload(&format!("{flags} --seed 2"), Material::Random(1000));
        assert_ne!(one, other_seed.work(7));
        assert!(one.prompt.iter().all(|&id| id < 1000));
    }

    #[test]
    fn texts_follow_each_other_until_the_prompt_is_long_enough() {
        let workload = workload("--prompt-tokens fixed:7", texts());
        let prompts: Vec<_> = (0..20).map(|n| workload.work(n).prompt).collect();
        let both = [vec![1, 2, 3, 4, 5, 1, 2], vec![4, 5, 1, 2, 3, 4, 5]];
        assert!(both.iter().all(|prompt| prompts.contains(prompt)));
        assert!(prompts.iter().all(|prompt| both.contains(prompt)));
    }

    #[test]
    fn all_prompts_share_the_prefix_and_nothing_else() {
        let workload = workload(
            "--shared-prefix 9 --prompt-tokens fixed:5 --output-tokens fixed:6",
            Material::Random(1 << 20),
        );
        let prompts: Vec<_> = (0..50).map(|n| workload.work(n).prompt).collect();
        assert!(
            prompts
                .iter()
                .all(|p| p.len() == 14 && p[..9] == prompts[0][..9])
        );
        assert!(prompts[1..].iter().all(|p| p[9..] != prompts[0][9..]));
        assert_eq!(workload.most_tokens(), 20);
    }

    #[test]
    fn the_share_of_sampled_answers_is_as_asked() {
        let workload = workload("--temperature 0.8 --sampled-share 0.25", texts());
        let sampled = (0..4000).filter(|&n| workload.work(n).temperature > 0.0);
        let share = sampled.count() as f64 / 4000.0;
        assert!((share - 0.25).abs() < 0.03, "{share}");
    }

    #[test]
    fn first_answers_are_cut_and_the_rest_of_them_is_the_same() {
        let workload = workload("--output-tokens fixed:64", texts());
        let cut: Vec<u32> = (0..100)
            .map(|n| workload.first_work(n).output_tokens)
            .collect();
        assert!(cut.iter().all(|n| (1..=64).contains(n)));
        assert!(cut.iter().any(|&n| n < 16) && cut.iter().any(|&n| n > 48));
        assert_eq!(workload.first_work(3).prompt, workload.work(3).prompt);
    }
}
