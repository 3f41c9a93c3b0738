//! `report.html`.
use super::document::Report;
pub(super) fn page(_report: &Report) -> anyhow::Result<String> {
    Ok(String::new())
}
