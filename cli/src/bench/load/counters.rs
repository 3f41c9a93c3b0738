//! What the servers counted, beside what came here.

use super::{
    buckets::{Buckets, Within},
    measures::Totals,
};
use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{body::Body, transport::Uri};

/// Most bytes of what a server tells.
const MOST_BYTES: usize = 8 << 20;
/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(10);
/// A server counts a call just after its last message, and so a moment later than the client.
const SETTLE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Counters that clients can check.
const COUNTERS: [Counter; 5] = [
    Counter {
        name: "dssd_requests_total",
        // Those that were given up or failed have other reasons.
        labels: &["finish_reason=\"stop\"", "finish_reason=\"length\""],
        here: |totals| totals.finished,
    },
    Counter {
        name: "dssd_rejected_requests_total",
        labels: &[],
        here: |totals| totals.rejected,
    },
    Counter {
        name: "dssd_spec_decode_num_drafts_total",
        labels: &[],
        here: |totals| totals.drafts,
    },
    Counter {
        name: "dssd_spec_decode_num_draft_tokens_total",
        labels: &[],
        here: |totals| totals.draft_tokens,
    },
    Counter {
        name: "dssd_spec_decode_num_accepted_tokens_total",
        labels: &[],
        here: |totals| totals.accepted_tokens,
    },
];

/// How late the servers were with refusals, by their own clocks.
const REFUSAL_DELAY: &str = "dssd_refusal_delay_seconds";

struct Counter {
    name: &'static str,
    /// One of these must be there; any labels do where there are none.
    labels: &'static [&'static str],
    here: fn(&Totals) -> u64,
}

/// One counter, there and here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Count {
    pub(super) counter: &'static str,
    /// Sum over the servers.
    pub(super) servers: u64,
    pub(super) client: u64,
    pub(super) agrees: bool,
}

/// What all servers told at one moment.
#[derive(Default)]
struct Told {
    /// By the order of [`COUNTERS`].
    sums: [u64; COUNTERS.len()],
    refusal_delay: Buckets,
}

/// What the servers told of a run.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) counts: Vec<Count>,
    pub(super) refusal_delay: Option<Within>,
}

/// Asks servers for their metrics.
pub(super) struct Counters {
    client: Client<HttpConnector, Body>,
    servers: Vec<Uri>,
    before: Told,
}

impl Counters {
    /// Notes down what the servers have counted so far.
    ///
    /// # Errors
    /// If one does not answer.
    pub(super) async fn begin(servers: Vec<Uri>) -> Result<Self> {
        let mut counters = Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            servers,
            before: Told::default(),
        };
        counters.before = counters.read().await?;
        Ok(counters)
    }

    /// What they counted since, beside `totals`; waits a little where it is not the same yet.
    ///
    /// # Errors
    /// If one does not answer.
    pub(super) async fn compare(&self, totals: &Totals) -> Result<Compared> {
        let asked = Instant::now();
        loop {
            let now = self.read().await?;
            let counts = self.counts(&now, totals);
            if counts.iter().all(|count| count.agrees) || asked.elapsed() > SETTLE {
                let refusals = &now.refusal_delay - &self.before.refusal_delay;
                return Ok(Compared {
                    counts,
                    refusal_delay: refusals.within(),
                });
            }
            sleep(PAUSE).await;
        }
    }

    fn counts(&self, now: &Told, totals: &Totals) -> Vec<Count> {
        let sides = now.sums.iter().zip(&self.before.sums);
        let all = COUNTERS.iter().zip(sides).map(|(counter, (now, before))| {
            let (servers, client) = (now.saturating_sub(*before), (counter.here)(totals));
            Count {
                counter: counter.name,
                servers,
                client,
                agrees: servers == client,
            }
        });
        all.collect()
    }

    async fn read(&self) -> Result<Told> {
        let mut told = Told::default();
        for server in &self.servers {
            let text = timeout(LIMIT, self.ask(server)).await;
            let text = text
                .with_context(|| format!("{server}: no answer within {LIMIT:?}"))?
                .with_context(|| server.to_string())?;
            for (sum, counter) in told.sums.iter_mut().zip(&COUNTERS) {
                *sum += counter.of(&text);
            }
            told.refusal_delay += Buckets::of(REFUSAL_DELAY, &text);
        }
        Ok(told)
    }

    async fn ask(&self, server: &Uri) -> Result<String> {
        let response = self.client.get(server.clone()).await?;
        ensure!(
            response.status().is_success(),
            "answered {}: the address of metrics is wanted, such as http://127.0.0.1:9090/metrics",
            response.status()
        );
        match Limited::new(response.into_body(), MOST_BYTES)
            .collect()
            .await
        {
            Ok(body) => Ok(String::from_utf8(body.to_bytes().into())?),
            Err(error) => bail!("{error}"),
        }
    }
}

impl Counter {
    /// The sum of its series in a text of metrics.
    fn of(&self, text: &str) -> u64 {
        let values = text.lines().filter_map(|line| {
            let series = line.strip_prefix(self.name)?;
            let labels = series.strip_prefix('{').and_then(|s| s.split_once('}'));
            let (labels, value) = labels.unwrap_or(("", series));
            let wanted = self.labels.is_empty() || self.labels.iter().any(|l| labels.contains(l));
            // A time stamp may follow.
            let value = value.strip_prefix(' ')?.split(' ').next()?;
            wanted.then(|| value.parse::<f64>().ok()).flatten()
        });
        values.sum::<f64>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNTERS, Counters, Told};
    use crate::bench::load::measures::Totals;
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tonic::transport::Uri;

    /// A server that gives these answers, one to each connection.
    async fn server(answers: Vec<String>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert!(connection.read(&mut request).await.unwrap() > 0);
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}/metrics").parse().unwrap()
    }

    fn answer(status: &str, text: &str) -> String {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n{text}")
    }

    #[tokio::test]
    async fn a_server_may_count_a_moment_later_than_its_client() {
        let counted = |n: u32| {
            answer(
                "200 OK",
                &format!("dssd_requests_total{{finish_reason=\"stop\"}} {n}\n"),
            )
        };
        // Another server has counted nothing, then or later.
        let servers = vec![
            server(vec![counted(5), counted(7), counted(8)]).await,
            server(vec![answer("200 OK", "# EOF\n"); 3]).await,
        ];
        let counters = Counters::begin(servers).await.unwrap();
        let totals = Totals {
            finished: 3,
            ..Totals::default()
        };
        let counts = counters.compare(&totals).await.unwrap().counts;
        assert!(counts.iter().all(|count| count.agrees), "{counts:?}");
        assert_eq!(counts[0].servers, 3);
    }

    #[tokio::test]
    async fn another_address_than_that_of_metrics_is_told_as_such() {
        let server = server(vec![answer("404 Not Found", "")]).await;
        let error = Counters::begin(vec![server.clone()]).await.err().unwrap();
        let words = format!("{error:#}");
        assert!(
            words.contains("404") && words.contains("/metrics"),
            "{words}"
        );
        assert!(words.contains(&server.to_string()), "{words}");
    }

    const TEXT: &str = "\
# HELP dssd_requests Requests that ended.
# TYPE dssd_requests counter
dssd_requests_total{model_name=\"demo\",finish_reason=\"stop\"} 3
dssd_requests_total{model_name=\"demo\",finish_reason=\"length\"} 40 1520879607.789
dssd_requests_total{model_name=\"demo\",finish_reason=\"aborted\"} 100
dssd_rejected_requests_total{model_name=\"demo\",reason=\"queue_full\"} 5
dssd_rejected_requests_total{model_name=\"demo\",reason=\"queue_wait\"} 6
dssd_spec_decode_num_drafts_total 7
dssd_spec_decode_num_draft_tokens_total{model_name=\"demo\"} 8.0
dssd_spec_decode_num_accepted_tokens_total{model_name=\"demo\"} 4
dssd_spec_decode_num_accepted_tokens_per_pos_total{position=\"0\"} 90
# EOF
";

    #[test]
    fn counters_are_summed_over_the_labels_that_count() {
        let found: Vec<u64> = COUNTERS.iter().map(|counter| counter.of(TEXT)).collect();
        assert_eq!(found, [43, 11, 7, 8, 4]);
    }

    fn told(sums: [u64; 5]) -> Told {
        Told {
            sums,
            ..Told::default()
        }
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let counters = Counters {
            client: Client::builder(TokioExecutor::new()).build_http(),
            servers: Vec::new(),
            before: told([10, 0, 0, 0, 0]),
        };
        let totals = Totals {
            finished: 33,
            rejected: 12,
            ..Totals::default()
        };
        let counts = counters.counts(&told([43, 11, 0, 0, 0]), &totals);
        let agrees: Vec<bool> = counts.iter().map(|count| count.agrees).collect();
        assert_eq!(agrees, [true, false, true, true, true]);
        assert_eq!((counts[0].servers, counts[0].client), (33, 33));
    }
}
