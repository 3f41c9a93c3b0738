//! The report for people.

use super::{
    measures::Percentiles,
    report::{Calls, OpenLoop, Report},
};
use std::fmt::{self, Formatter};

/// Writes it, a section for each thing that was done.
pub(super) fn write(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let servers = match report.endpoints.as_slice() {
        [] => "both services in this process".to_owned(),
        endpoints => endpoints.join(", "),
    };
    writeln!(f, "{}, {servers}, seed {}", report.model, report.seed)?;
    if !report.rungs.is_empty() {
        write_ladder(report, f)?;
    }
    if let Some(open) = &report.open_loop {
        write_open(open, f)?;
    }
    if let Some(verified) = report.verified {
        writeln!(
            f,
            "\nverified     {} answers with and without drafts, {} differ",
            verified.compared, verified.differing
        )?;
    }
    if !report.counters.is_empty() {
        writeln!(f, "\ncounted      servers   client")?;
    }
    for count in &report.counters {
        let verdict = if count.agrees { "" } else { " DIFFERS" };
        writeln!(
            f,
            "{:20} {:8} {}{verdict}",
            count.servers, count.client, count.counter
        )?;
    }
    if let Some(delay) = report.server_refusal_delay {
        let bound = |within: Option<f64>| {
            within.map_or("?".to_owned(), |seconds| format!("{}", 1e3 * seconds))
        };
        writeln!(
            f,
            "refused      {} by the servers, within {} / {} / {} ms by their clocks (p50 / p90 / p99)",
            delay.count,
            bound(delay.p50),
            bound(delay.p90),
            bound(delay.p99)
        )?;
    }
    if report.wrong > 0 {
        writeln!(
            f,
            "\nWRONG        {} answers with missing, doubled or disordered tokens",
            report.wrong
        )?;
    }
    Ok(())
}

const HEADINGS: [&str; 2] = [
    "                                         first token, ms      token to token, ms        to the end, s",
    "streams drafts        tokens/s accepted    p50    p90    p99    p50    p90    p99    p50    p90    p99 finished rejected errors",
];

fn write_ladder(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "\n{}", HEADINGS.join("\n"))?;
    for rung in &report.rungs {
        let name = format!("{:7} {}", rung.streams, rung.speculation);
        write_calls(&name, rung.tokens_per_second, &rung.calls, f)?;
    }
    writeln!(
        f,
        "\nstreams {}/off  from   to, medians of pairs",
        report.policy
    )?;
    for ratio in &report.ratios {
        writeln!(
            f,
            "{:7} {:8.3} {:5.3} {:5.3}",
            ratio.streams, ratio.ratio, ratio.lowest, ratio.highest
        )?;
    }
    Ok(())
}

fn write_open(open: &OpenLoop, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "\nopen loop    {:.2} requests/s for {:.0} s: {} arrived, {} not sent by this client",
        open.requests_per_second, open.seconds, open.offered, open.unsent
    )?;
    writeln!(f, "{}", HEADINGS.join("\n"))?;
    let name = format!("   open {}", open.speculation);
    write_calls(&name, open.tokens_per_second, &open.calls, f)?;
    let relative = |ratio: Option<f64>| {
        ratio.map_or_else(String::new, |ratio| {
            format!(", {ratio:.2} of the saturated rung's")
        })
    };
    writeln!(
        f,
        "goodput      {:.1} tokens/s{}",
        open.goodput,
        relative(open.goodput_over_saturation)
    )?;
    if let (Some(itl), Some(_)) = (open.calls.itl, open.itl_p99_over_saturation) {
        let relative = relative(open.itl_p99_over_saturation);
        writeln!(f, "token to token, p99  {:.1} ms{relative}", 1e3 * itl.p99)?;
    }
    if let Some(refusal) = open.calls.refusal {
        writeln!(
            f,
            "refusals     {} of {} with a time to try again; told after {:.1} / {:.1} / {:.1} ms (p50 / p90 / p99)",
            open.calls.rejected_with_retry_info,
            open.calls.rejected,
            1e3 * refusal.p50,
            1e3 * refusal.p90,
            1e3 * refusal.p99
        )?;
    }
    if let Some(late) = open.client_lateness {
        writeln!(f, "client       sent {:.1} ms late (p99)", 1e3 * late.p99)?;
    }
    Ok(())
}

fn write_calls(name: &str, rate: f64, calls: &Calls, f: &mut Formatter<'_>) -> fmt::Result {
    let accepted = calls.draft_acceptance_rate;
    let accepted = accepted.map_or_else(|| "-".to_owned(), |rate| format!("{:.0} %", 100.0 * rate));
    writeln!(
        f,
        "{name:20} {rate:9.1} {accepted:>8} {} {} {} {:8} {:8} {:6}",
        columns(calls.ttft, 1e3, 1),
        columns(calls.itl, 1e3, 2),
        columns(calls.e2e, 1.0, 2),
        calls.finished,
        calls.rejected,
        calls.errors
    )?;
    for (code, count) in &calls.errors_by_code {
        writeln!(f, "        {count} times {code}")?;
    }
    Ok(())
}

fn columns(times: Option<Percentiles>, unit: f64, digits: usize) -> String {
    let Some(Percentiles { p50, p90, p99 }) = times else {
        return format!("{:>6} {:>6} {:>6}", "-", "-", "-");
    };
    let column = |seconds: f64| format!("{:6.digits$}", unit * seconds);
    [p50, p90, p99].map(column).join(" ")
}
