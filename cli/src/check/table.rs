//! The report for people.

use super::report::Report;

impl Report {
    /// The report as a table, with a verdict.
    pub(super) fn print(&self) {
        let left_out = self.left_out.iter().map(|left_out| left_out.name.len());
        let names = self.settings.iter().map(|row| row.name.len());
        let width = names.chain(left_out).max().unwrap_or_default();
        say_line!(
            "{:width$} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7}",
            "setting",
            "tokens",
            "accepted",
            "rejected",
            "plain",
            "stale",
            "losses",
            "ahead"
        );
        for row in &self.settings {
            say_line!(
                "{:width$} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7}",
                row.name,
                row.tokens,
                row.accepted,
                row.rejected,
                row.plain_rounds,
                row.stale_proposals,
                row.drafter_losses,
                row.ahead.unwrap_or(0)
            );
        }
        for left_out in &self.left_out {
            say_line!("{:width$} left out: {}", left_out.name, left_out.reason);
        }
        say_line!(
            "\n{} prompts, {} tokens compared, {} differ",
            self.prompts,
            self.tokens_compared,
            self.differing_tokens
        );
        if let Some(first) = &self.first_divergence {
            say_line!(
                "first divergence: `{}`, prompt {:?}, {:?} {}: plain {:?}, speculated {:?}, margin {:?} nats",
                first.setting,
                first.prompt,
                first.what,
                first.position,
                first.plain,
                first.speculated,
                first.margin
            );
        }
        for note in &self.notes {
            say_line!("note: {note}");
        }
        for failure in &self.failures {
            say_line!("FAILED: {failure}");
        }
        if self.failures.is_empty() {
            say_line!("passed");
        }
    }
}
