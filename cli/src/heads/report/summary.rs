//! The gist of a report, for a terminal.

use super::{
    document::Report,
    speculation::{Comparison, LayerSkip},
};
use dssd_heads::interval::Estimate;
use std::fmt;

/// A value with its interval.
pub(super) fn estimate(estimate: &Estimate) -> String {
    let Estimate { value, low, high } = estimate;
    format!("{value:.3} ({low:.3} to {high:.3})")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {}, {} threads; {}",
            self.model, self.dtype, self.threads, self.text.description
        )?;
        if self.quick {
            writeln!(f, "quick: too little was measured to conclude anything")?;
        }
        writeln!(
            f,
            "\nlayer  agreement                 KL     AUROC of the entropy"
        )?;
        for section in &self.heads {
            let head = &section.head;
            let agreement = Estimate {
                value: head.agreement,
                low: head.agreement_low,
                high: head.agreement_high,
            };
            let area = head.auroc.entropy.as_ref().map_or("none".into(), estimate);
            writeln!(
                f,
                "{:>5}  {}  {:.3}  {area}",
                head.layer,
                estimate(&agreement),
                head.kl
            )?;
        }
        self.early_exits(f)?;
        self.drafts(f)?;
        self.comparisons.iter().try_for_each(|told| told.fmt(f))
    }
}

impl Report {
    fn early_exits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.early_exit.is_empty() {
            return writeln!(
                f,
                "\nnot calibrated, so no early exits: run `dssd heads calibrate`"
            );
        }
        writeln!(
            f,
            "\nearly exit at  agreement  perplexity   depth  layers  speed-up"
        )?;
        self.early_exit.iter().try_for_each(|row| {
            writeln!(
                f,
                "{:>13.2} {:>10.3} {:>11.3} {:>7.2} {:>7.2} {:>9.2}",
                row.epsilon,
                row.agreement,
                row.perplexity_ratio,
                row.exit_depth,
                row.layers_per_token,
                row.speedup
            )
        })
    }

    fn drafts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n  T  policy     settings          tokens/s speed-up accepted length wasted coverage"
        )?;
        self.policies.iter().try_for_each(|row| {
            let report = &row.report;
            writeln!(
                f,
                "{:>3}  {:<10} {:<18} {:>7.1} {:>8.2} {:>6.0} % {:>6.2} {:>6.2} {:>6.0} %",
                row.temperature,
                report.policy,
                row.settings,
                report.tokens_per_second,
                report.speedup,
                100.0 * report.draft_acceptance_rate,
                report.mean_acceptance_length,
                report.wasted_per_token,
                100.0 * report.coverage
            )
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let temperature = self.temperature;
        if let Some(best) = &self.auto_over_best {
            writeln!(
                f,
                "\nT = {temperature}: auto over the best other policy ({}) {}: {}",
                best.settings,
                estimate(&best.ratio),
                if self.met { "met" } else { "not met" }
            )?;
        }
        if let Some(LayerSkip {
            dssd_over_layerskip_acceptance,
            wanted,
            dssd,
            layerskip,
            ..
        }) = &self.layerskip
        {
            writeln!(
                f,
                "T = {temperature}: acceptance of {} over {} {}, wanted {wanted:.2}",
                dssd.settings,
                layerskip.settings,
                estimate(dssd_over_layerskip_acceptance),
            )?;
        }
        Ok(())
    }
}
